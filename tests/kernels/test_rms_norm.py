"""RMS norm against a row-by-row loop in float64."""

from __future__ import annotations

import math

import pytest
import torch

from multiflora_kernels.rms_norm import add_rms_norm, rms_norm, rms_norm_reference

EPS = 1e-5


def loop(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    out = torch.empty(x.shape, dtype=torch.float64)
    for index in range(math.prod(x.shape[:-1])):
        row = x.reshape(-1, x.shape[-1])[index].double()
        out.view(-1, x.shape[-1])[index] = weight.double() * row / math.sqrt(float(row @ row) / len(row) + EPS)
    return out


@pytest.mark.parametrize("tokens", [1, 2, 3, 17])
@pytest.mark.parametrize("size", [8, 50, 80, 512])
def test_rows(path, near, tokens, size):
    x, weight = torch.randn(tokens, size) * 3, torch.randn(size)
    near(rms_norm_reference(x.double(), weight.double(), EPS), loop(x, weight))
    near(rms_norm(x, weight, EPS), loop(x, weight))


def test_heads_of_a_strided_view(path, near):
    qkv, weight = torch.randn(5, 8, 64), torch.randn(64)
    for view in (qkv[:, :5], qkv[:, 5:7], qkv[:, ::2], qkv[..., :40]):
        near(rms_norm(view, weight[: view.shape[-1]], EPS), loop(view, weight[: view.shape[-1]]))


@pytest.mark.parametrize("tokens", [1, 3, 200])
def test_residual_sum(path, near, tokens):
    x, residual, weight = torch.randn(tokens, 512), torch.randn(tokens, 512), torch.randn(512)
    kept = x.clone(), residual.clone()
    normed, total = add_rms_norm(x, residual, weight, EPS)
    near(normed, loop(x.double() + residual.double(), weight))
    assert torch.equal(total, x + residual)
    assert torch.equal(x, kept[0])
    assert torch.equal(residual, kept[1])


def test_residual_sum_of_views(path, near):
    x, residual, weight = torch.randn(3, 100)[:, :60], torch.randn(3, 60), torch.randn(60)
    near(add_rms_norm(x, residual, weight, EPS)[0], loop(x.double() + residual.double(), weight))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_twice(path, dtype):
    x, weight = torch.randn(3, 64, dtype=dtype), torch.randn(64, dtype=dtype)
    y = rms_norm(x, weight, EPS)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), loop(x, weight), rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_one_bad_row_stays_alone(path):
    x = torch.randn(4, 64)
    x[2, 5] = float("nan")
    y = rms_norm(x, torch.ones(64), EPS)
    assert torch.isnan(y[2]).all()
    assert torch.isfinite(y[[0, 1, 3]]).all()
