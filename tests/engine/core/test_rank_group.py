"""What ranks exchange, between threads: sums, columns of unequal parts, numbers, and the first one's tokens."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import torch

from multiflora_engine.core.rank_group import RankGroup
from multiflora_engine.execution.token_feedback import TokenFeedback

CPU = torch.device("cpu")
Answer = TypeVar("Answer")


@pytest.fixture
def of_all(tmp_path: Path) -> Callable[[Callable[[RankGroup], Answer]], list[Answer]]:
    """Runs what a rank does on three of them. Returns the answers in their order."""

    def run(work: Callable[[RankGroup], Answer]) -> list[Answer]:
        answers: dict[int, Answer] = {}

        def rank(number: int) -> None:
            answers[number] = work(RankGroup(str(tmp_path / "meeting"), number, 3, CPU))

        threads = [threading.Thread(target=rank, args=(number,), daemon=True) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return [answers[number] for number in range(3)]

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


def test_all_hear_each_ones_number(of_all: Callable) -> None:
    assert of_all(lambda ranks: ranks.values_of_all(10 + ranks.rank)) == [[10, 11, 12]] * 3


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
