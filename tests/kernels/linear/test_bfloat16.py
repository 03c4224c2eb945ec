"""Weights in bfloat16 beside activations in float32: what products are, and where they are taken."""

from __future__ import annotations

import pytest
import torch

from multiflora_kernels.linear import bfloat16, measuring
from multiflora_kernels.linear.bfloat16 import BFloat16Weight, bfloat16_rows, can_multiply, choose
from multiflora_kernels.runtime.machine_cache import remembered
from multiflora_kernels.runtime.processor import Processor

FLOATS = {1: 1.0, 4: 2.0, 16: 4.0, 64: 16.0}
KERNEL = {1: 0.5, 4: 1.5, 16: 4.0, 64: 15.0}
ONEDNN = {1: 1.0, 4: 1.2, 16: 2.0, 64: 8.0}
SLOW = {rows: 10 * seconds for rows, seconds in FLOATS.items()}


def weight_of(tensor, least, monkeypatch):
    monkeypatch.setattr(bfloat16, "bfloat16_rows", lambda: least)
    return BFloat16Weight(tensor)


@pytest.mark.parametrize("rows", [0, 1, 3, 4, 20, 70])
@pytest.mark.parametrize(("k", "columns"), [(64, 48), (50, 37), (7, 1)])
def test_products_are_rounded_alike_with_any_number_of_rows(path, rows, k, columns, monkeypatch):
    values, x, bias = torch.randn(columns, k).bfloat16(), torch.randn(rows, k), torch.randn(columns)
    for least in (0, 4, 100):
        weight = weight_of(values, least, monkeypatch)
        y = weight.matmul(x, bias)
        assert (y.dtype, weight.dtype, y.shape) == (torch.float32, torch.float32, (rows, columns))
        expected = x.bfloat16().double() @ values.double().T
        # One rounding of the sum; half a unit more where sums in another order fall on another side of a border.
        torch.testing.assert_close((y - bias).double(), expected, rtol=2 * 2.0**-8, atol=1e-4)
        rounded = weight.matmul(x)
        assert torch.equal(rounded, rounded.bfloat16().float())


def test_rows_are_the_checkpoints_in_float32(monkeypatch):
    values = torch.randn(6, 4).bfloat16()
    weight = weight_of(values, 4, monkeypatch)
    assert torch.equal(weight.dequantised_rows(2, 5), values[2:5].float())
    assert (weight.shape, weight.nbytes) == ((6, 4), 48)


def test_it_is_taken_where_it_never_loses():
    assert choose(FLOATS, KERNEL, ONEDNN) == 4
    assert choose(FLOATS, KERNEL, {**ONEDNN, 1: 0.4}) == 1
    assert choose(FLOATS, KERNEL, SLOW) is None
    assert choose(FLOATS, {**KERNEL, 1: 1.2}, {**ONEDNN, 1: 1.3}) is None
    assert choose(FLOATS, KERNEL, {**ONEDNN, 64: 14.9}) is None


def test_only_instructions_make_it_a_candidate():
    plain, able = Processor(frozenset({"avx2"})), Processor(frozenset({"avx512_bf16"}))
    assert [can_multiply(*case) for case in ((plain, True), (able, True), (able, False))] == [False, True, False]


def test_it_is_measured_once_and_remembered(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(bfloat16, "can_multiply", lambda processor, has_library: True)
    for module in (bfloat16, measuring):
        monkeypatch.setattr(module, "SIZE", 32)
    found = bfloat16_rows.__wrapped__()
    assert found is None or found in measuring.ROWS
    assert list(remembered(bfloat16.TABLE).values()) == [found]
    monkeypatch.setattr(bfloat16, "_measured_rows", lambda: 3)
    assert bfloat16_rows.__wrapped__() == found
    monkeypatch.setattr(bfloat16, "can_multiply", lambda processor, has_library: False)
    assert bfloat16_rows.__wrapped__() is None
