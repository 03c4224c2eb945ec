"""Starts the processes of the other ranks, and finds out how they ended. Knows nothing of what they do."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from multiflora_engine.core.rank_group import GroupBroken, RankGrid
from multiflora_engine.core.shard import RankPlace
from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.models.errors import ModelError
from multiflora_engine.parallel.line import OtherRank, RankLine, RankLost
from multiflora_engine.parallel.messages import StartRank, encode
from multiflora_engine.protocol.config import EngineConfig, SizedConfig

_COMMAND = (sys.executable, "-P", "-m", "multiflora_engine.process.rank")
_END_SECONDS = 5.0

CauseOfEnd = Callable[[], str]
StartProcess = Callable[[Sequence[Connection]], CauseOfEnd]
"""(its ends of the lines of steps, of adapters and of copies) -> what waits for its end; see `OtherRank`."""


@dataclass(frozen=True)
class Ranks:
    """Ranks that have met, as the first rank has it."""

    grid: RankGrid
    line: RankLine


def place_of(config: EngineConfig, rank: int) -> RankPlace:
    return RankPlace.of(rank, config.tensor_parallel_size, config.pipeline_parallel_size)


def check_ranks(config: EngineConfig, model: ModelConfig, device: torch.device) -> None:
    """Raises ModelError for a model, options or a machine that cannot be divided among so many ranks."""
    model.check_division(config.tensor_parallel_size)
    model.check_stages(config.pipeline_parallel_size)
    flags = {
        "--tensor-parallel-size": config.tensor_parallel_size,
        "--pipeline-parallel-size": config.pipeline_parallel_size,
    }
    asked = " ".join(f"{flag} {size}" for flag, size in flags.items() if size > 1)
    if device.type == "cuda" and (device.index or 0) + config.num_ranks > (count := torch.cuda.device_count()):
        raise ModelError(
            f"{asked} takes a GPU for each of {config.num_ranks} ranks, and {count} can be used here. Choose less, or "
            "check the driver with nvidia-smi."
        )


def start_process(lines: Sequence[Connection]) -> CauseOfEnd:
    """A rank on this machine. It ends when its lines do."""
    descriptors = [line.fileno() for line in lines]
    process = subprocess.Popen([*_COMMAND, *map(str, descriptors)], stdin=subprocess.DEVNULL, pass_fds=descriptors)
    for line in lines:
        line.close()
    return lambda: _cause_of_end(process)


@contextlib.contextmanager
def started_ranks(
    config: SizedConfig, device: torch.device, available: int | None, start: StartProcess
) -> Iterator[Ranks]:
    """All ranks but this one, which is the first; they end if the body raises. available: see `StartRank`. Raises
    RankLost when one ends meanwhile, ModelError where the operator can mend what ended it."""
    peers = list[OtherRank]()
    line = RankLine(peers)
    try:
        with tempfile.TemporaryDirectory(prefix="multiflora-") as folder:
            meeting = str(Path(folder) / "ranks")
            for rank in range(1, config.num_ranks):
                peers.append(_started(rank, start, StartRank(config, rank, meeting, available)))
            line.wait_started()
            grid = RankGrid(meeting, place_of(config, 0), device)
        yield Ranks(grid, line)
    except BaseException as problem:
        lost = line.first_loss() if isinstance(problem, GroupBroken) else problem
        line.close()
        if isinstance(lost, RankLost) and lost.is_configuration:
            raise ModelError(str(lost)) from problem
        if isinstance(lost, RankLost):
            raise lost from problem
        raise


def _started(rank: int, start: StartProcess, message: StartRank) -> OtherRank:
    (steps, adapters, copies), theirs = zip(Pipe(), Pipe(), Pipe(), strict=True)
    peer = OtherRank(rank, steps, adapters, copies, start(theirs))
    peer.steps.send_bytes(encode(message))
    return peer


def _cause_of_end(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return "it closed its lines"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
