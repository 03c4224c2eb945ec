"""How scheduler and prefix cache see the memory behind the device: copies of published blocks, by hash. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from multiflora_engine.protocol.messages import TierStats


@dataclass(frozen=True, slots=True)
class BlockChain:
    """The blocks of one sequence by their hashes, and whose they are.

    hashes: from block number `first` on; root: before it. owner: whose share of a tier they count towards, and share:
    how much of it that is, from 0 to 1. uses: see cache/worth.py.
    """

    hashes: Sequence[bytes]
    root: bytes
    owner: str
    share: float
    uses: int
    first: int = 0

    def hash_of(self, number: int) -> bytes:
        return self.hashes[number - self.first]

    def parent_of(self, number: int) -> bytes:
        """The hash before the block's."""
        return self.hash_of(number - 1) if number > self.first else self.root

    def part(self, numbers: Sequence[int]) -> BlockChain:
        """As much of it as these blocks, in their order, need."""
        first = numbers[0]
        hashes = self.hashes[first - self.first : numbers[-1] + 1 - self.first]
        return replace(self, hashes=hashes, root=self.parent_of(first), first=first)


@dataclass(slots=True, eq=False)
class BlockLoad:
    """Copies on their way into allocated blocks, which are the load's until it is finished.

    share: of a tier, see BlockChain. is_wanted: cleared by the scheduler when the sequence that it is for has ended.
    num_loaded: leading blocks that hold their content; final once the load is finished.
    """

    hashes: Sequence[bytes]
    block_ids: Sequence[int]
    share: float
    is_wanted: bool = True
    num_loaded: int = 0


class BlockTiers(Protocol):
    """Implemented by Offloading. No call waits for a copy, a disk or the device."""

    def keep(self, chain: BlockChain, numbers: Sequence[int], block_ids: Sequence[int], are_hits: bool) -> None:
        """The chain's blocks of these numbers are published: those without a copy are to be copied, behind what was
        asked for before.

        are_hits: a sequence that a client waits for started on them; else they were computed.
        """
        ...

    def give_up(self, block_id: int) -> None:
        """The block is published no more: from now on it may be written."""
        ...

    def holds(self, hash: bytes) -> bool:
        """Whether there is a copy of the block."""
        ...

    def count_worth_loading(self, hashes: Sequence[bytes]) -> int:
        """How many of these, from the first one on, are there and come sooner than they are computed."""
        ...

    def load(self, hashes: Sequence[bytes], block_ids: Sequence[int], share: float) -> BlockLoad:
        """Begins to copy them into these blocks, and into faster tiers than they are in: there their owner has no more
        than this share."""
        ...

    def finished(self) -> list[BlockLoad]:
        """The loads that ended since the last call."""
        ...

    def drop(self, hashes: Sequence[bytes]) -> None:
        """The copies of these blocks and of all that continue them are found no more."""
        ...

    def stats(self) -> list[TierStats]: ...
