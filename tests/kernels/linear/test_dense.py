"""The product for few rows, at every row count where the kernel changes its shape."""

from __future__ import annotations

import pytest
import torch

from multiflora_kernels.linear import dense
from multiflora_kernels.linear.dense import DenseWeight
from multiflora_kernels.linear.narrow import MAX_NATIVE_ROWS


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 24, 31, 32, 33, 49, 63, 64, 65])
@pytest.mark.parametrize(("k", "columns"), [(64, 48), (50, 37), (130, 25), (7, 1)])
def test_against_float64(path, near, rows, k, columns):
    x, weight, bias = torch.randn(rows, k), torch.randn(columns, k), torch.randn(columns)
    near(DenseWeight(weight).matmul(x), x.double() @ weight.double().T)
    near(DenseWeight(weight).matmul(x, bias), x.double() @ weight.double().T + bias.double())


@pytest.mark.parametrize("rows", [1, 2, 20, MAX_NATIVE_ROWS])
def test_threads_do_not_change_a_bit(path, near, rows):
    x, weight = torch.randn(rows, 256), torch.randn(530, 256)
    near(DenseWeight(weight).matmul(x), x.double() @ weight.double().T)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(DenseWeight(weight).matmul(x))
    torch.set_num_threads(threads)
    if path == "native":
        assert torch.equal(*results)


def test_views(path, near):
    x, weight = torch.randn(5, 300)[:, 20:148], torch.randn(40, 256)[:, ::2]
    near(DenseWeight(weight).matmul(x), x.double() @ weight.double().T)
    near(DenseWeight(weight.contiguous()).matmul(x), x.double() @ weight.double().T)


def test_one_bad_row_stays_alone(path):
    x, weight = torch.randn(20, 64), torch.randn(40, 64)
    x[7, 3] = float("nan")
    y = DenseWeight(weight).matmul(x)
    assert torch.isnan(y[7]).all()
    y[7] = 0
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(path, dtype):
    x, weight = torch.randn(3, 64, dtype=dtype), torch.randn(8, 64, dtype=dtype)
    y = DenseWeight(weight).matmul(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), x.double() @ weight.double().T, rtol=2 * torch.finfo(dtype).eps, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dequantised_rows_are_views(dtype):
    weight = DenseWeight(torch.zeros(6, 4, dtype=dtype))
    weight.dequantised_rows(2, 5).fill_(3)
    assert (weight.dequantised_rows(2, 5) == 3).all()
    assert weight.tensor.sum() == 3 * 3 * 4
    assert (weight.shape, weight.dtype, weight.nbytes) == ((6, 4), dtype, 24 * dtype.itemsize)


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 9, 20, MAX_NATIVE_ROWS, MAX_NATIVE_ROWS + 1])
@pytest.mark.parametrize(("k", "columns"), [(64, 48), (50, 37), (130, 25), (1030, 5), (7, 1)])
def test_bfloat16_is_widened_where_torch_is_slow(path, rows, k, columns, monkeypatch):
    """Products of bfloat16 values are exact in float32, so that the sum's rounding is all that is left but the last."""
    monkeypatch.setattr(dense, "_widens_bfloat16", lambda: path == "native")
    x, weight = torch.randn(rows, k).bfloat16(), torch.randn(columns, k).bfloat16()
    bias = torch.randn(columns).bfloat16()
    y = DenseWeight(weight).matmul(x, bias)
    assert (y.dtype, y.shape) == (torch.bfloat16, (rows, columns))
    expected = x.double() @ weight.double().T + bias.double()
    torch.testing.assert_close(y.double(), expected, rtol=torch.finfo(torch.bfloat16).eps, atol=1e-4)
