"""Copies of KV blocks where each of several ranks has its part of every block. Knows no scheduler and no disk.

What the first rank decides the others do, in order with the steps: so each rank knows that a block is given up before
it writes it, and throws away what it was copying of it. Copies that only some ranks have are of no use: a load has come
as far as the rank that has the least.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

from msgspec.structs import replace

from multiflora_engine.core.block_tiers import BlockChain, BlockLoad
from multiflora_engine.offload.offloading import Offloading
from multiflora_engine.parallel.line import RankLine
from multiflora_engine.parallel.messages import (
    BlocksLoaded,
    ClearBlocks,
    DropBlocks,
    GiveUpBlocks,
    KeepBlocks,
    LoadBlocks,
    StopLoad,
    ToCopies,
    encode,
)
from multiflora_engine.protocol.messages import TierStats


@dataclass(slots=True)
class _Loading:
    """left: ranks that have not ended it. most: blocks that all of those that have could load. is_stopped: the others
    were told that no sequence waits for it."""

    load: BlockLoad
    left: int
    most: int
    is_stopped: bool = False


class SharedCopies:
    """What the first rank's engine uses in place of its own Offloading: the same, of all ranks. Whether there is a
    copy, and whether loading it pays, goes by the first rank's.

    all_bytes: of a block, on all ranks. Each call but `stats`, `holds` and `count_worth_loading` raises RankLost.
    """

    def __init__(self, own: Offloading, line: RankLine, all_bytes: int) -> None:
        self._own = own
        self._line = line
        self._all_bytes = all_bytes
        # Which the others are told of before anything that may write them.
        self._given_up: list[int] = []
        self._serial = 0
        self._loading: dict[int, _Loading] = {}
        self._serials: dict[BlockLoad, int] = {}

    def keep(self, chain: BlockChain, numbers: Sequence[int], block_ids: Sequence[int], are_hits: bool) -> None:
        self._tell(KeepBlocks(chain.part(numbers), list(numbers), list(block_ids), are_hits))
        self._own.keep(chain, numbers, block_ids, are_hits)

    def give_up(self, block_id: int) -> None:
        """The others hear of it at the latest when a step begins."""
        self._given_up.append(block_id)
        self._own.give_up(block_id)

    def holds(self, hash: bytes) -> bool:
        return self._own.holds(hash)

    def count_worth_loading(self, hashes: Sequence[bytes]) -> int:
        return self._own.count_worth_loading(hashes)

    def load(self, hashes: Sequence[bytes], block_ids: Sequence[int], share: float) -> BlockLoad:
        self._serial += 1
        self._tell(LoadBlocks(self._serial, list(hashes), list(block_ids), share))
        load = self._own.load(hashes, block_ids, share)
        self._loading[self._serial] = _Loading(load, 1 + self._line.num_others, len(hashes))
        self._serials[load] = self._serial
        return load

    def finished(self) -> list[BlockLoad]:
        if not self._loading:
            return []
        for load in self._own.finished():
            self._note(self._serials.pop(load), load.num_loaded)
        for loaded in self._line.blocks_loaded():
            self._note(loaded.serial, loaded.count)
        self._stop_unwanted()
        return [self._ended(serial) for serial, loading in list(self._loading.items()) if not loading.left]

    def drop(self, hashes: Sequence[bytes]) -> None:
        self._tell(DropBlocks(list(hashes)))
        self._own.drop(hashes)

    def clear(self) -> None:
        """See Offloading."""
        self._tell(ClearBlocks())
        self._own.clear()

    def step_begins(self) -> None:
        self._tell_given_up()
        self._own.step_begins()

    def step_ends(self) -> None:
        self._own.step_ends()

    def note_computed(self, num_tokens: int, seconds: float) -> None:
        """See Offloading."""
        self._own.note_computed(num_tokens, seconds)

    def stats(self) -> list[TierStats]:
        """Bytes of all ranks; the rest as the first one has it."""
        own_bytes, all_bytes = self._own.block_bytes, self._all_bytes
        return [
            replace(
                tier,
                bytes=tier.bytes // own_bytes * all_bytes,
                capacity_bytes=tier.capacity_bytes // own_bytes * all_bytes,
            )
            for tier in self._own.stats()
        ]

    def wait_until_kept(self, timeout: float) -> bool:
        """Of the first rank; see Offloading."""
        return self._own.wait_until_kept(timeout)

    def close(self) -> None:
        """The others close theirs when their lines end."""
        self._own.close()

    def _tell(self, message: ToCopies) -> None:
        self._tell_given_up()
        self._line.send(message)

    def _tell_given_up(self) -> None:
        if self._given_up:
            given_up, self._given_up = self._given_up, []
            self._line.send(GiveUpBlocks(given_up))

    def _note(self, serial: int, count: int) -> None:
        loading = self._loading[serial]
        loading.left -= 1
        loading.most = min(loading.most, count)

    def _stop_unwanted(self) -> None:
        for serial, loading in self._loading.items():
            if loading.left and not (loading.load.is_wanted or loading.is_stopped):
                loading.is_stopped = True
                self._tell(StopLoad(serial))

    def _ended(self, serial: int) -> BlockLoad:
        loading = self._loading.pop(serial)
        loading.load.num_loaded = loading.most
        return loading.load


class CopyFollower:
    """Another rank's copies, as the first one tells it. line: says what was loaded."""

    def __init__(self, own: Offloading, line: Connection) -> None:
        self._own = own
        self._line = line
        self._lock = threading.Lock()
        self._serials: dict[BlockLoad, int] = {}
        own.on_loaded = self._loaded

    def follow(self, message: ToCopies) -> None:
        match message:
            case KeepBlocks(chain, numbers, block_ids, are_hits):
                self._own.keep(chain, numbers, block_ids, are_hits)
            case GiveUpBlocks(block_ids):
                for block_id in block_ids:
                    self._own.give_up(block_id)
            case LoadBlocks(serial, hashes, block_ids, share):
                with self._lock:  # it may end before its number is noted
                    self._serials[self._own.load(hashes, block_ids, share)] = serial
            case StopLoad(serial):
                self._stop(serial)
            case DropBlocks(hashes):
                self._own.drop(hashes)
            case ClearBlocks():
                self._own.clear()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """This rank computes a step, perhaps on the processor that copies."""
        self._own.step_begins()
        try:
            yield
        finally:
            self._own.step_ends()

    def close(self) -> None:
        """See Offloading."""
        self._own.close()

    def _stop(self, serial: int) -> None:
        with self._lock:
            for load, number in self._serials.items():
                load.is_wanted = load.is_wanted and number != serial

    def _loaded(self, load: BlockLoad) -> None:
        """By the thread that copies."""
        with self._lock:
            serial = self._serials.pop(load)
        with suppress(OSError):  # the first rank has ended
            self._line.send_bytes(encode(BlocksLoaded(serial, load.num_loaded)))
