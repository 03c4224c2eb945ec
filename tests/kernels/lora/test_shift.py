"""Adapters' biases: each row gets its adapter's vector, rows of the base keep every bit; the same with tiles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from multiflora_kernels.lora.batched_lora import LoraSegments
from multiflora_kernels.lora.shift import lora_shift_
from multiflora_kernels.lora.tiles import build_tiles, fill_table, table_entries

STARTS, SLOTS = [2, 3, 7, 7, 9], [1, 3, 2, 0]


def expected_rows(y: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    out = y.double().clone()
    for slot, begin, end in zip(SLOTS, STARTS, STARTS[1:], strict=False):
        out[begin:end] += shift[slot].double()
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_tiles", [False, True])
def test_rows_of_a_batch(dtype: torch.dtype, with_tiles: bool) -> None:
    segments = LoraSegments.build(STARTS, SLOTS)
    if with_tiles:
        segments = replace(segments, tiles=build_tiles(STARTS, SLOTS, torch.from_numpy))
    shift, whole = torch.randn(4, 6), torch.randn(9, 10).to(dtype)
    whole[0, 3] = -0.0
    before = whole.clone()
    lora_shift_(whole[:, 2:8], shift, segments)
    wanted = expected_rows(before[:, 2:8], shift)
    torch.testing.assert_close(whole[:, 2:8].double(), wanted, rtol=torch.finfo(dtype).eps, atol=1e-6)
    untouched = torch.ones_like(whole, dtype=torch.bool)
    untouched[2:, 2:8] = False
    assert torch.equal(whole[untouched].view(torch.int16), before[untouched].view(torch.int16)), "every bit"


def test_a_graphs_table_filled_anew() -> None:
    """Rows past the batch count as the base's; another batch changes other rows."""
    table = np.zeros(table_entries(12, 4), np.int32)
    segments = LoraSegments.static(torch.from_numpy(table), 12, 4)
    shift = torch.randn(4, 6)
    for starts, slots in ((STARTS, SLOTS), ([0, 4], [2]), ([5], [])):
        fill_table(table, starts, slots, 12)
        y = torch.randn(12, 6)
        expected = y.clone()
        for slot, begin, end in zip(slots, starts, starts[1:], strict=False):
            expected[begin:end] += shift[slot]
        lora_shift_(y, shift, segments)
        assert torch.equal(y, expected)
