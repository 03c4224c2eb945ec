"""Weights that are kept in 4 and 8 bits are the integers they were given, and products are those of their values."""

from __future__ import annotations

import pytest
import torch
from tests.kernels.linear.cases import CPU, FORMS, int8_of, random_integers

from multiflora_kernels.linear.narrow import MAX_NATIVE_ROWS
from multiflora_kernels.linear.quantised import INT8, IntegerForm, QuantisedWeight


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 8, 9, 13, 40, MAX_NATIVE_ROWS, MAX_NATIVE_ROWS + 1])
def test_products_against_float64(path, near, form, rows):
    for columns in (53, 1):
        weight, values = random_integers(form, columns, 192)
        x, bias = torch.randn(rows, 192), torch.randn(columns)
        near(weight.matmul(x), x.double() @ values.T)
        near(weight.matmul(x, bias), x.double() @ values.T + bias.double())


@pytest.mark.parametrize("form", [INT8, IntegerForm(8, float_type=torch.float8_e4m3fn)], ids=str)
@pytest.mark.parametrize("k", [7, 50, 130])
@pytest.mark.parametrize("rows", [1, 5, 33, 65])
def test_eight_bits_of_any_number_of_inputs(path, near, form, k, rows):
    weight, values = random_integers(form, 25, k)
    x = torch.randn(rows, k)
    near(weight.matmul(x), x.double() @ values.T)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_dequantised_rows_are_exact(path, form):
    weight, values = random_integers(form, 10, 192)
    assert torch.equal(weight.dequantised_rows(0, 10), values.float())
    assert torch.equal(weight.rows(3, 7).dequantised_rows(1, 3), values[4:6].float())


def test_a_view_of_rows_fills_the_whole(path):
    whole = QuantisedWeight.empty(IntegerForm(4, 32, has_zeros=True), (6, 64), torch.float32, CPU)
    whole.store_(0, torch.zeros(6, 64, dtype=torch.uint8), torch.ones(6, 2), torch.zeros(6, 2))
    whole.rows(2, 5).store_(1, torch.full((2, 64), 15, dtype=torch.uint8), torch.ones(2, 2), torch.full((2, 2), 3))
    assert torch.equal(whole.dequantised_rows(0, 6).sum(1), torch.tensor([0, 0, 0, 12, 12, 0]) * 64.0)


def test_int8_is_the_nearest_code_and_rows_of_zeros_stay(path):
    values = torch.randn(9, 50)
    values[4] = 0
    values[5, 7] = 1e4
    found = int8_of(values).dequantised_rows(0, 9)
    assert ((found - values).abs() <= values.abs().amax(1, keepdim=True) / 254 * (1 + 1e-5)).all()
    assert (found[4] == 0).all()


@pytest.mark.parametrize("rows", [1, 2, 20, MAX_NATIVE_ROWS])
def test_threads_do_not_change_a_bit(path, rows):
    weight, _ = random_integers(IntegerForm(4, 64), 530, 256)
    x, threads, results = torch.randn(rows, 256), torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(weight.matmul(x))
    torch.set_num_threads(threads)
    if path == "native":
        assert torch.equal(*results)


def test_strided_inputs(path, near):
    weight, values = random_integers(IntegerForm(4, 32), 40, 128)
    for x in (torch.randn(5, 300)[:, 20:148], torch.randn(5, 256)[:, ::2]):
        near(weight.matmul(x), x.double() @ values.T)


def test_one_bad_row_stays_alone(path):
    weight, _ = random_integers(IntegerForm(4, 32), 40, 64)
    x = torch.randn(20, 64)
    x[7, 3] = float("nan")
    y = weight.matmul(x)
    assert torch.isnan(y[7]).all()
    y[7] = 0
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 9, 70])
def test_half_precision_is_summed_in_float32(path, dtype, rows):
    weight, values = random_integers(IntegerForm(4, 32), 30, 64)
    weight = QuantisedWeight(weight.form, weight.matrix, dtype)
    x, bias = torch.randn(rows, 64, dtype=dtype), torch.randn(30, dtype=dtype)
    y = weight.matmul(x, bias)
    assert y.dtype == weight.dequantised_rows(0, 3).dtype == dtype
    expected = x.double() @ values.T + bias.double()
    torch.testing.assert_close(y.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-4)


def test_what_is_kept_and_what_it_takes():
    assert [IntegerForm(4, size).suits(96) for size in (32, 96, None, 48, 64)] == [True, True, True, False, False]
    assert [IntegerForm(8, size).suits(50) for size in (None, 50, 25)] == [True, True, False]
    assert not IntegerForm(4).suits(50)
    sizes = {form: QuantisedWeight.empty(form, (64, 256), torch.float32, CPU).nbytes / (64 * 256) for form in FORMS}
    assert sizes[IntegerForm(4, 32, has_zeros=True)] == 0.5 + 5 / 32 <= 0.35 * 2
    assert sizes[IntegerForm(4, 64)] == 0.5 + 4 / 64
    assert sizes[IntegerForm(8)] == 1 + 4 / 256
