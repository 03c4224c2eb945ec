"""Weights in bfloat16 beside activations in float32: what products are, and where they are taken."""

from __future__ import annotations

import pytest
import torch

from multiflora_kernels.linear import bfloat16, measuring
from multiflora_kernels.linear.bfloat16 import BFloat16Way, BFloat16Weight, bfloat16_way, choose
from multiflora_kernels.runtime.machine_cache import remember
from multiflora_kernels.runtime.processor import Processor

FLOATS = {1: 1.0, 4: 2.0, 16: 4.0, 64: 16.0}
KERNEL = {1: 0.5, 4: 1.5, 16: 4.0, 64: 15.0}
ONEDNN = {1: 1.0, 4: 1.2, 16: 2.0, 64: 8.0}
WIDENED = {1: 0.5, 4: 1.0, 16: 4.1, 64: 19.0}
SLOW = {rows: 10 * seconds for rows, seconds in FLOATS.items()}


def weight_of(tensor, rounds_from, monkeypatch):
    monkeypatch.setattr(bfloat16, "bfloat16_way", lambda: BFloat16Way(rounds_from))
    return BFloat16Weight(tensor)


@pytest.mark.parametrize("rows", [0, 1, 3, 4, 20, 70])
@pytest.mark.parametrize(("k", "columns"), [(64, 48), (50, 37), (7, 1)])
def test_products_are_rounded_alike_with_any_number_of_rows(path, rows, k, columns, monkeypatch):
    values, x, bias = torch.randn(columns, k).bfloat16(), torch.randn(rows, k), torch.randn(columns)
    for rounds_from in (0, 4, 100):
        weight = weight_of(values, rounds_from, monkeypatch)
        y = weight.matmul(x, bias)
        assert (y.dtype, weight.dtype, y.shape) == (torch.float32, torch.float32, (rows, columns))
        expected = x.bfloat16().double() @ values.double().T
        # One rounding of the sum; half a unit more where sums in another order fall on another side of a border.
        torch.testing.assert_close((y - bias).double(), expected, rtol=2 * 2.0**-8, atol=1e-4)
        rounded = weight.matmul(x)
        assert torch.equal(rounded, rounded.bfloat16().float())


@pytest.mark.parametrize("rows", [0, 1, 3, 20, 70])
@pytest.mark.parametrize(("k", "columns"), [(64, 48), (50, 37), (7, 1)])
def test_widened_weights_make_the_products_of_float32(path, rows, k, columns, monkeypatch):
    values, x, bias = torch.randn(columns, k).bfloat16(), torch.randn(rows, k), torch.randn(columns)
    y = weight_of(values, None, monkeypatch).matmul(x, bias)
    assert (y.dtype, y.shape) == (torch.float32, (rows, columns))
    torch.testing.assert_close(y, x @ values.float().T + bias)


def test_rows_are_the_checkpoints_in_float32(monkeypatch):
    values = torch.randn(6, 4).bfloat16()
    weight = weight_of(values, 4, monkeypatch)
    assert torch.equal(weight.dequantised_rows(2, 5), values[2:5].float())
    assert (weight.shape, weight.nbytes) == ((6, 4), 48)


def test_activations_are_rounded_where_that_is_faster_with_most_rows_and_never_slower():
    assert choose(FLOATS, SLOW, KERNEL, ONEDNN) == BFloat16Way(4)
    assert choose(FLOATS, SLOW, KERNEL, {**ONEDNN, 1: 0.4}) == BFloat16Way(1)
    assert choose(FLOATS, SLOW, {**KERNEL, 64: 7.9}, ONEDNN) == BFloat16Way(64), "more rows are torch's"
    assert choose(FLOATS, SLOW, {**KERNEL, 1: 1.2}, {**ONEDNN, 1: 1.3}) == BFloat16Way(4), "one may be measured badly"
    for by_kernel, by_torch in (
        (KERNEL, SLOW),
        ({**KERNEL, 1: 5.0}, {**ONEDNN, 1: 5.1}),
        (KERNEL, {**ONEDNN, 64: 14.9}),
        ({}, {}),
    ):
        assert choose(FLOATS, SLOW, by_kernel, by_torch) is None
        assert choose(FLOATS, WIDENED, by_kernel, by_torch) == BFloat16Way(None)


def test_weights_are_widened_where_few_rows_lose_nothing_and_many_little():
    assert choose(FLOATS, {**WIDENED, 16: 20.0}, {}, {}) is None
    assert choose(FLOATS, {**WIDENED, 64: 19.5}, {}, {}) is None


def test_it_is_measured_once_and_remembered(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for module in (bfloat16, measuring):
        monkeypatch.setattr(module, "SIZE", 32)
    found = bfloat16_way.__wrapped__()
    assert found is None or found.rounds_from in (None, *measuring.ROWS)
    for other in (BFloat16Way(3), BFloat16Way(None), None):
        monkeypatch.setattr(bfloat16, "_measured_way", lambda other=other: other)
        assert bfloat16_way.__wrapped__() == found, "it is looked up"
        monkeypatch.setattr(measuring, "machine_key", lambda other=other: f"another machine {other}")
        assert bfloat16_way.__wrapped__() == other
        found = other
    remember(bfloat16.TABLE, {measuring.machine_key(): {"rounds_from": "many"}})
    assert bfloat16_way.__wrapped__() is None


def test_torch_is_asked_only_where_an_instruction_multiplies_bfloat16(monkeypatch):
    rows = []
    monkeypatch.setattr(bfloat16, "_rounded_product", lambda x, w, torch_rows: rows.append(len(x)))
    for module in (bfloat16, measuring):
        monkeypatch.setattr(module, "SIZE", 32)
    for features, is_asked in (({"avx2"}, False), ({"avx512_bf16"}, True)):
        monkeypatch.setattr(bfloat16, "this_processor", lambda features=features: Processor(frozenset(features)))
        rows.clear()
        bfloat16._measured_way()
        assert bool(rows) is is_asked


def test_nothing_is_kept_in_bfloat16_without_our_kernels(monkeypatch):
    monkeypatch.setattr(bfloat16, "library", lambda: None)
    assert bfloat16_way.__wrapped__() is None
