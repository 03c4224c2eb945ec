"""A rank that is not the first, `python -m multiflora_engine.process.rank FD FD FD`: the first rank's process starts
it.

Owns the process: it ends with its lines, whatever signals say. What it does meanwhile is `FollowingRank`'s.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from multiflora_adapters.slots import SlotPool, pool_size
from multiflora_engine.build import load_model, open_copies, without_graphs
from multiflora_engine.core.rank_group import GroupBroken, RankGrid
from multiflora_engine.execution.device import (
    choose_device,
    keep_freed_memory,
    memory_errors_explained,
    use_device,
    use_threads,
)
from multiflora_engine.execution.device_side import build_device_side
from multiflora_engine.execution.warm_up import warm_up_adapter
from multiflora_engine.models.configuration.reading import load_model_config
from multiflora_engine.models.errors import ModelError
from multiflora_engine.parallel.following import FollowingRank
from multiflora_engine.parallel.launch import place_of
from multiflora_engine.parallel.messages import RankFailed, Started, StartRank, ToRank, decoder, encode
from multiflora_engine.parallel.shared_copies import CopyFollower
from multiflora_engine.parallel.shared_loads import LoadFollower
from multiflora_engine.sampling.sampler import Sampler

_log = logging.getLogger(__name__)
_ANY_BYTES = 1 << 62  # what adapters may take, the first rank's pool decides


def follow(steps: Connection, adapters: Connection, copies: Connection) -> int:
    """A rank from its start to the end of its lines. Returns the exit status."""
    try:
        start = decoder(ToRank).decode(steps.recv_bytes())
        steps.send_bytes(encode(Started()))
        with contextlib.closing(_rank(start, adapters, copies)) as rank:
            rank.run(steps)
    except EOFError:
        return 0  # the first rank has ended
    except GroupBroken:
        _wait_for_end(steps)  # another rank has ended: of which the first one finds out, and ends all
        return 0
    except ModelError as error:
        _say_last_words(steps, RankFailed(str(error), is_configuration=True))
        return 3
    except Exception as error:
        _log.exception("The rank cannot go on")
        _say_last_words(steps, RankFailed(f"{type(error).__name__}: {error}", is_configuration=False))
        return 1
    finally:
        steps.close()
    return 0


def _wait_for_end(steps: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            steps.recv_bytes()


def _say_last_words(steps: Connection, message: RankFailed) -> None:
    with contextlib.suppress(OSError):  # the first rank has ended, too
        steps.send_bytes(encode(message))


def _rank(start: StartRank, adapters: Connection, copies: Connection) -> FollowingRank:
    """Does what `build_engine` does of the first rank's, in the same order."""
    config, place = start.config, place_of(start.config, start.rank)
    keep_freed_memory()
    use_threads(config.num_threads, config.processes_per_host)
    first = choose_device(config.device)
    device = first if first.index is None else torch.device(first.type, first.index + start.rank)
    use_device(device)
    grid = RankGrid(start.meeting, place, device)
    model = load_model_config(Path(config.model_path), config.hf_overrides).at(place)
    loaded = load_model(config, model, device, start.available)
    with memory_errors_explained():
        slots, rows = pool_size(config.max_loras, config.max_lora_rank)
        pool = SlotPool(loaded.part, slots, rows, loaded.weights.dtype, device, config.max_lora_rank, _ANY_BYTES)
        sampler = Sampler(model.vocab_size)
        config = without_graphs(config, model, loaded.weights)
        side = build_device_side(config, model, loaded.weights, pool, sampler, None, grid)
        own_copies = open_copies(config, model, loaded.base, side.cache, side.max_model_len, grid)
    if own_copies is not None:
        grid.values_of_all(own_copies.block_bytes)  # which the first rank adds up
    follower = LoadFollower(loaded.load_adapter, adapters, warm_up_adapter(model, loaded.weights.dtype))
    threading.Thread(target=follower.run, name="adapter-reader", daemon=True).start()
    return FollowingRank(side, pool, follower, None if own_copies is None else CopyFollower(own_copies, copies))


def main() -> int:
    # An operator's Ctrl-C and a service manager's SIGTERM go to all processes: when ranks end, the first one decides.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    return follow(*(Connection(int(descriptor)) for descriptor in sys.argv[1:4]))


if __name__ == "__main__":
    sys.exit(main())
