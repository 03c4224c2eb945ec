"""Merged matrices are PEFT's, bit by bit where it draws nothing and with the same random numbers where it does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft.utils import merge_utils

from multiflora_adapters.mixes.merging import merge
from multiflora_adapters.mixes.recipe import PRUNING, Combination

WEIGHTS = [0.7, -1.25, 0.5]


@pytest.mark.parametrize("density", [0.07, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (4, 33), (65, 8)])
@pytest.mark.parametrize("combination", sorted(PRUNING))
@pytest.mark.filterwarnings("ignore:The density 1.0")
def test_as_peft(combination: Combination, shape: tuple[int, int], density: float) -> None:
    torch.manual_seed(1)
    tensors = [torch.randn(shape) for _ in WEIGHTS]
    theirs: Any = getattr(merge_utils, combination)
    torch.manual_seed(9)
    expected = theirs(tensors, torch.tensor(WEIGHTS), density)
    merged = merge(combination, tensors, WEIGHTS, density, torch.Generator().manual_seed(9))
    torch.testing.assert_close(merged, expected, rtol=0, atol=0)


def test_linear_is_the_weighted_sum() -> None:
    tensors = [torch.randn(3, 5) for _ in WEIGHTS]
    expected = merge_utils.task_arithmetic(tensors, torch.tensor(WEIGHTS))
    merged = merge("linear", tensors, WEIGHTS, 1.0, torch.Generator())
    torch.testing.assert_close(merged, expected, rtol=0, atol=0)
