"""Keys that were split among several items come together again: few queries over many keys."""

from __future__ import annotations

import pytest
import torch
from tests.kernels.attention.cases import attend, check, loop, make, merged, plan_of

from multiflora_kernels.attention.plan import QueryBounds


@pytest.mark.parametrize("window", [None, 150])
@pytest.mark.parametrize("queries", [[1, 1, 0, 1, 1], [3, 2, 0, 1, 4]])
def test_decode_splits_keys(kernel_device, window, queries):
    case = make([600, 33, 0, 257, 64], queries, 4, 1, 32).to(kernel_device)
    bounds = QueryBounds(1, max(queries))
    if kernel_device.type == "cpu":
        assert merged(plan_of(case, window, bounds)), "the case is there for the second kernel"
    check(attend(case, window, None, bounds), loop(case, window))


@pytest.mark.parametrize("window", [None, 550])
def test_prompts_split_keys(kernel_device, window):
    """The rest of a prompt whose beginning was cached: few queries, many keys."""
    case = make([700, 600], [17, 33], 2, 1, 32, dtype=torch.float16).to(kernel_device)
    if kernel_device.type == "cpu":
        assert merged(plan_of(case, window))
    check(attend(case, window), loop(case, window))


def test_sinks_are_added_once(kernel_device):
    """By the merge, or where keys are not split by the first kernel."""
    case, sinks, bounds = (
        make([300, 20], [1, 1], 2, 1, 32).to(kernel_device),
        torch.tensor([-3.0, 4.0]),
        QueryBounds(1, 1),
    )
    if kernel_device.type == "cpu":
        assert merged(plan_of(case, None, bounds))
    check(attend(case, None, None, bounds, sinks), loop(case, sinks=sinks))
