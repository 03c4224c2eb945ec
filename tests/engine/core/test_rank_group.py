"""What ranks exchange, between threads: sums, columns of unequal parts, numbers, the first one's tokens, and what
stages pass on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import torch

from multiflora_engine.core.rank_group import RankGrid, RankGroup
from multiflora_engine.core.shard import RankPlace
from multiflora_engine.execution.token_feedback import TokenFeedback

CPU = torch.device("cpu")
Answer = TypeVar("Answer")


OnGrid = Callable[[int, int, Callable[[RankGrid], Answer]], list[Answer]]


@pytest.fixture
def on_grid(tmp_path: Path) -> OnGrid:
    """(ranks of a stage, stages, what a rank does) -> the ranks' answers, in their order."""

    def run(shards: int, stages: int, work: Callable[[RankGrid], Answer]) -> list[Answer]:
        answers: dict[int, Answer] = {}

        def rank(number: int) -> None:
            answers[number] = work(
                RankGrid(str(tmp_path / f"{shards}-{stages}"), RankPlace.of(number, shards, stages), CPU)
            )

        threads = [threading.Thread(target=rank, args=(n,), daemon=True) for n in range(shards * stages)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return [answers[number] for number in range(shards * stages)]

    return run


@pytest.fixture
def of_all(on_grid: OnGrid) -> Callable[[Callable[[RankGroup], Answer]], list[Answer]]:
    """Runs what a rank does on three of them, of one stage. Returns the answers in their order."""

    def run(work: Callable[[RankGroup], Answer]) -> list[Answer]:
        def on_shards(grid: RankGrid) -> Answer:
            assert grid.shards is not None
            assert grid.stages is None
            return work(grid.shards)

        return on_grid(3, 1, on_shards)

    return run


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_are_the_same_on_all_ranks(dtype: torch.dtype, of_all: Callable) -> None:
    def work(ranks: RankGroup) -> torch.Tensor:
        x = torch.randn(5, 7, generator=torch.Generator().manual_seed(ranks.rank)).to(dtype)
        ranks.sum_(x)
        return x

    first, *others = of_all(work)
    expected = sum(torch.randn(5, 7, generator=torch.Generator().manual_seed(rank)).to(dtype) for rank in range(3))
    torch.testing.assert_close(first, expected)
    assert all(torch.equal(first, other) for other in others)


def test_columns_of_unequal_parts_come_together(of_all: Callable) -> None:
    """Eight columns of three ranks: three, three and two."""
    whole = torch.arange(16.0).view(2, 8)
    for found in of_all(lambda ranks: ranks.gather_columns(whole[:, 3 * ranks.rank : 3 * ranks.rank + 3], 8)):
        assert torch.equal(found, whole)


def test_all_hear_each_ones_number(on_grid: Callable) -> None:
    assert on_grid(3, 1, lambda grid: grid.values_of_all(10 + grid.place.rank)) == [[10, 11, 12]] * 3
    assert on_grid(1, 3, lambda grid: grid.of_stages(10 + grid.place.rank)) == [[[10], [11], [12]]] * 3


def test_steps_pass_all_stages_in_order_each_among_ranks_of_the_same_part(on_grid: Callable) -> None:
    """Two ranks at each of three stages: what a stage adds tells it from others, and sums stay within it."""

    def work(grid: RankGrid) -> list[float]:
        assert grid.stages is not None
        assert grid.shards is not None
        place = grid.place
        if place.stage.is_first:
            for step in range(3):
                grid.stages.send(torch.full((2, 2), 1000.0 * step + place.shard.rank))
            awaited = [grid.stages.receive((2, 2), torch.float32) for _ in range(3)]
            return [float(x.wait(lambda: None)[1, 1]) for x in awaited]
        for _ in range(3):
            x = grid.stages.receive((2, 2), torch.float32).wait(lambda: None)
            grid.stages.send((x + 10.0**place.stage.number).t())
        x = torch.ones(1)
        grid.shards.sum_(x)
        return [float(x)]

    first, second, *others = on_grid(2, 3, work)
    assert first == [110.0, 1110.0, 2110.0]
    assert second == [111.0, 1111.0, 2111.0]
    assert others == [[2.0]] * 4


def test_who_waits_for_a_stage_can_say_so_meanwhile(on_grid: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiflora_engine.core.rank_group._BETWEEN_SIGNS", 0.001)
    was_said = threading.Event()

    def work(grid: RankGrid) -> bool:
        assert grid.stages is not None
        if grid.place.stage.is_first:
            grid.stages.receive((1,), torch.float32).wait(was_said.set)
        else:
            was_said.wait(30)
            grid.stages.send(torch.ones(1))
        return was_said.is_set()

    assert on_grid(1, 2, work) == [True, True]


def test_the_first_rank_tells_which_tokens_go_on(of_all: Callable) -> None:
    """It alone samples: the others read its tokens in the next step."""

    def work(ranks: RankGroup) -> list[int]:
        feedback = TokenFeedback(4, CPU, ranks)
        if ranks.rank == 0:
            feedback.keep(torch.tensor([7, -1, 9]))
        else:
            feedback.follow(3)
        return feedback.resolve(torch.tensor([5, 0, 0]), torch.tensor([-1, 2, 0], dtype=torch.int32)).tolist()

    assert of_all(work) == [[5, 9, 7]] * 3
