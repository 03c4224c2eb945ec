"""Which part of a model each of several ranks computes: some layers, and of each of them some heads and columns of the
MLP's inside. Torch-free arithmetic.

Source: Megatron-LM, arXiv:1909.08053, arXiv:2104.04473. Knows numbers, no modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_MOST_RANKS = 64

Span = tuple[int, int]
"""[first, end)."""


@dataclass(frozen=True)
class Shard:
    """Of each layer the part of rank `rank` of `size`."""

    rank: int
    size: int

    def span(self, total: int) -> Span:
        """What this rank has of so many: equal parts, of which the last may be shorter."""
        share = -(-total // self.size)
        return min(total, self.rank * share), min(total, (self.rank + 1) * share)

    def kv_span(self, num_kv_heads: int) -> Span:
        """Key-value heads of this rank; where there are fewer than ranks, several ranks have the same one."""
        if num_kv_heads >= self.size:
            return self.span(num_kv_heads)
        head = self.rank * num_kv_heads // self.size
        return head, head + 1


@dataclass(frozen=True)
class ModelStage:
    """Of the model's layers those of stage `number` of `count`, which compute one after the other."""

    number: int
    count: int

    def layers(self, total: int) -> range:
        """Its layers of so many: as many as any other stage's, or one more on the last ones, for the first stage has
        embedding and head beside."""
        share, rest = divmod(total, self.count)
        without = self.count - rest
        first = self.number * share + max(0, self.number - without)
        return range(first, first + share + (self.number >= without))

    @property
    def is_first(self) -> bool:
        return self.number == 0

    @property
    def is_last(self) -> bool:
        return self.number == self.count - 1


@dataclass(frozen=True)
class RankPlace:
    """Where a rank stands among all: the ranks of a stage each have a shard of its layers."""

    shard: Shard
    stage: ModelStage

    @classmethod
    def of(cls, rank: int, tensor_parallel_size: int, pipeline_parallel_size: int) -> RankPlace:
        """Ranks are numbered stage by stage."""
        stage, shard = divmod(rank, tensor_parallel_size)
        return cls(Shard(shard, tensor_parallel_size), ModelStage(stage, pipeline_parallel_size))

    @property
    def rank(self) -> int:
        return self.rank_of_stage(self.stage.number)

    @property
    def num_ranks(self) -> int:
        return self.shard.size * self.stage.count

    def rank_of_stage(self, number: int) -> int:
        """Which rank has the same shard of that stage."""
        return number * self.shard.size + self.shard.rank


def why_indivisible(size: int, divided: Mapping[str, int], num_kv_heads: int) -> str | None:
    """divided: what has to be a multiple of the ranks, by what it is called. Returns what is not, and which numbers of
    ranks there could be; None: it can be divided."""
    if not (wrong := _indivisible(size, divided, num_kv_heads)):
        return None
    possible = [n for n in range(1, _MOST_RANKS + 1) if not _indivisible(n, divided, num_kv_heads)]
    return (
        f"the model's {' and its '.join(wrong)} cannot be divided among {size} ranks. "
        f"Choose {', '.join(str(n) for n in possible)}."
    )


def _indivisible(size: int, divided: Mapping[str, int], num_kv_heads: int) -> list[str]:
    wrong = [f"{count} {name}" for name, count in divided.items() if count % size]
    if num_kv_heads % size and size % num_kv_heads:
        wrong.append(f"{num_kv_heads} key-value heads")
    return wrong
