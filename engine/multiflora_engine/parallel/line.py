"""The lines from the first rank to the others: messages in order, and the news that a rank has ended.

Knows bytes and who is at the other end; what messages mean, it does not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

from multiflora_engine.core.step import DeviceLost
from multiflora_engine.parallel.messages import (
    Agreed,
    BlocksLoaded,
    FromAdapters,
    FromRank,
    RankFailed,
    Refused,
    Started,
    ToAdapters,
    ToRank,
    decoder,
    encode,
)

_from_rank = decoder(FromRank)
_from_adapters = decoder(FromAdapters)
_blocks_loaded = decoder(BlocksLoaded)
_LAST_WORDS_SECONDS = 1.0


class RankLost(DeviceLost):
    """A rank has ended, and with it the group. is_configuration: the operator can mend what ended it."""

    def __init__(self, message: str, is_configuration: bool = False) -> None:
        super().__init__(message)
        self.is_configuration = is_configuration


@dataclass(frozen=True)
class OtherRank:
    """Another rank, as the first one sees it. Filled by who starts ranks."""

    rank: int
    steps: Connection
    """What it does, in order; it says nothing but that it started, and last words."""
    adapters: Connection
    """What it brings to host memory meanwhile: each message is answered."""
    copies: Connection
    """What it has loaded of copies of KV blocks: it alone speaks."""
    cause_of_end: Callable[[], str]
    """Waits until its process has ended, for seconds at most, and says how."""


class RankLine:
    """All other ranks. Used by the step loop; `tell_adapters` and `answers` by the thread that reads adapters."""

    def __init__(self, peers: Sequence[OtherRank]) -> None:
        self._peers = peers
        self._lock = threading.Lock()

    def wait_started(self) -> None:
        """Until every rank's process is there. Raises RankLost."""
        for peer in self._peers:
            try:
                message = _from_rank.decode(peer.steps.recv_bytes())
            except (EOFError, OSError):
                raise RankLost(self._cause(peer)) from None
            if not isinstance(message, Started):
                raise _lost(peer, message)

    def send(self, message: ToRank) -> None:
        """Raises RankLost."""
        content = encode(message)
        with self._lock:
            for peer in self._peers:
                try:
                    peer.steps.send_bytes(content)
                except OSError:
                    raise self.loss(peer) from None

    def check(self) -> None:
        """Raises RankLost when a rank has ended; asks none of them anything."""
        for peer in self._peers:
            if peer.steps.poll():
                raise self.loss(peer)

    def first_loss(self) -> RankLost | None:
        """Why one of the ranks has ended, or is about to; None: none does."""
        ended = wait([peer.steps for peer in self._peers], _LAST_WORDS_SECONDS)
        return self.loss(next(peer for peer in self._peers if peer.steps in ended)) if ended else None

    def loss(self, lost: OtherRank) -> RankLost:
        """Why this one has ended."""
        try:
            message = _from_rank.decode(lost.steps.recv_bytes())
        except (EOFError, OSError):
            return RankLost(self._cause(lost))
        return _lost(lost, message)

    def tell_adapters(self, message: ToAdapters) -> None:
        """Raises RankLost."""
        content = encode(message)
        for peer in self._peers:
            try:
                peer.adapters.send_bytes(content)
            except OSError:
                raise self.loss(peer) from None

    def answers(self) -> list[Agreed | Refused]:
        """Of each rank, to the last thing that adapters were told. Raises RankLost."""
        found: list[Agreed | Refused] = []
        for peer in self._peers:
            try:
                found.append(_from_adapters.decode(peer.adapters.recv_bytes()))
            except (EOFError, OSError):
                raise self.loss(peer) from None
        return found

    def blocks_loaded(self) -> Iterator[BlocksLoaded]:
        """What they have loaded by now. Raises RankLost."""
        for peer in self._peers:
            while peer.copies.poll():
                try:
                    content = peer.copies.recv_bytes()
                except (EOFError, OSError):
                    raise self.loss(peer) from None
                yield _blocks_loaded.decode(content)

    @property
    def num_others(self) -> int:
        return len(self._peers)

    def close(self) -> None:
        """The other ranks end."""
        for peer in self._peers:
            peer.steps.close()
            peer.adapters.close()
            peer.copies.close()
        for peer in self._peers:
            peer.cause_of_end()

    @staticmethod
    def _cause(peer: OtherRank) -> str:
        return f"Rank {peer.rank} of this engine ended: {peer.cause_of_end()}."


def _lost(peer: OtherRank, message: FromRank) -> RankLost:
    assert isinstance(message, RankFailed), "a rank that has started says nothing else"
    return RankLost(f"Rank {peer.rank}: {message.message}", message.is_configuration)
