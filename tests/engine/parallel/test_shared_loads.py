"""An adapter is held by all ranks or by none, whichever of them cannot load it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from multiprocessing import Pipe

import pytest
import torch

from multiflora_adapters.dora.norms import SumSquares
from multiflora_adapters.report import AdapterError
from multiflora_adapters.weights import HostAdapter, ReplacedRows
from multiflora_engine.parallel.line import OtherRank, RankLine
from multiflora_engine.parallel.shared_loads import LoadFollower, SharedLoads

Load = Callable[[str, SumSquares], HostAdapter]


def loads(digest: str, sum_squares: SumSquares) -> HostAdapter:
    sum_squares({})
    return HostAdapter(digest, 1, {}, 5)


def takes(digest: str, sum_squares: SumSquares) -> HostAdapter:
    sum_squares({})
    return HostAdapter(digest, 1, {}, 900, {"lm_head": ReplacedRows(None, torch.zeros(7, 25))})


def sums(digest: str, sum_squares: SumSquares) -> HostAdapter:
    """As DoRA does; what comes back stands where a rank is kept."""
    return HostAdapter(digest, int(sum_squares({"o": torch.tensor([2.0])})["o"]), {}, 0)


def fails(digest: str, sum_squares: SumSquares) -> HostAdapter:
    raise OSError("no such file")


def fails_behind_the_sums(digest: str, sum_squares: SumSquares) -> HostAdapter:
    sums(digest, sum_squares)
    raise OSError("no such file")


def by_digest(cases: dict[str, Load]) -> Load:
    all_cases = {"dora": sums, "late": sums} | cases
    return lambda digest, sum_squares: all_cases.get(digest, loads)(digest, sum_squares)


class Group:
    """The first rank's loader, and those of two others on threads. failing: what the last one does by digest."""

    def __init__(self, first: dict[str, Load], failing: dict[str, Load]) -> None:
        pairs = [Pipe() for _ in range(2)]
        loaders = [by_digest({}), by_digest(failing)]
        zero = HostAdapter("zero", 1, {}, 0)
        self.others = [LoadFollower(load, theirs, zero) for load, (_, theirs) in zip(loaders, pairs, strict=True)]
        for other in self.others:
            threading.Thread(target=other.run, daemon=True).start()
        rest = [(Pipe()[0], Pipe()[0]) for _ in pairs]
        ranks = [
            OtherRank(1 + i, steps, ours, copies, lambda: "ended")
            for i, ((ours, _), (steps, copies)) in enumerate(zip(pairs, rest, strict=True))
        ]
        self.line = RankLine(ranks)
        self.load = SharedLoads(by_digest(first), self.line)

    @property
    def held(self) -> list[list[str]]:
        return [[adapter.digest for serial, adapter in other.held.items() if serial] for other in self.others]


@pytest.fixture
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    made = Group(*getattr(request, "param", ({}, {})))
    yield made
    made.line.close()


def test_all_ranks_hold_it_when_the_first_one_does(group: Group) -> None:
    assert group.load("plain").digest == "plain"
    assert group.held == [["plain"], ["plain"]]
    assert [list(other.held) for other in group.others] == [[0, group.load.serial_of("plain")]] * 2


def test_squares_are_summed_over_the_ranks(group: Group) -> None:
    assert group.load("dora").rank == 6
    assert [other.held[group.load.serial_of("dora")].rank for other in group.others] == [6, 6]


@pytest.mark.parametrize(
    "group",
    [
        ({}, {"late": fails_behind_the_sums}),
        ({"late": fails_behind_the_sums}, {}),
        ({}, {"late": fails}),
        ({"late": fails}, {}),
    ],
    indirect=True,
)
def test_where_one_rank_fails_none_holds_it_and_the_next_one_is_loaded(group: Group) -> None:
    with pytest.raises((OSError, AdapterError), match="no such file"):
        group.load("late")
    assert group.load("plain").digest == "plain"
    assert group.held == [["plain"], ["plain"]]


def test_the_first_rank_knows_what_the_others_parts_take() -> None:
    """A budget is that of the rank where most is taken of it."""
    made = Group({}, {"plain": takes})
    host = made.load("plain")
    made.line.close()
    assert (host.num_bytes, host.own_bytes) == (5, 700)
    assert host.stage_bytes == (5, 5, 900)
