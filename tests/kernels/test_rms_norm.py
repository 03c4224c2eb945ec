"""RMS norm against a row-by-row loop in float64."""

from __future__ import annotations

import math

import pytest
import torch

from multiflora_kernels.rms_norm import (
    add_rms_norm,
    add_rms_norm_triton,
    rms_norm,
    rms_norm_reference,
    rms_norm_triton,
)

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


def gemma(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """As transformers' GemmaRMSNorm says it, for w in x's dtype."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS) * (1.0 + w.float())).to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_float32_weight_multiplies_before_the_result_is_rounded(path, dtype):
    x, residual, w = torch.randn(9, 64).to(dtype), torch.randn(9, 64).to(dtype), torch.randn(64).to(dtype)
    weight = 1.0 + w.float()
    assert torch.equal(rms_norm(x, weight, EPS), gemma(x, w))
    normed, total = add_rms_norm(x, residual, weight, EPS)
    assert torch.equal(total, x + residual)
    assert torch.equal(normed, gemma(total, w))
    assert not torch.equal(gemma(x, w), rms_norm(x, weight.to(dtype), EPS)), "the two ways differ"


def test_one_bad_row_stays_alone(path):
    x = torch.randn(4, 64)
    x[2, 5] = float("nan")
    y = rms_norm(x, torch.ones(64), EPS)
    assert torch.isnan(y[2]).all()
    assert torch.isfinite(y[[0, 1, 3]]).all()


def close(actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    """Two roundings in dtype apart, plus float32's own."""
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.cpu().double(), expected, rtol=2 * torch.finfo(dtype).eps + 2e-6, atol=1e-6)


DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "size"), [(1, 8), (3, 50), (5, 512), (2, 1100), (1, 16384)])
def test_triton_kernels(kernel_device, dtype, tokens, size):
    x, residual = torch.randn(tokens, size) * 3, torch.randn(tokens, size)
    x, residual, weight = (value.to(dtype) for value in (x, residual, torch.randn(size)))
    close(rms_norm_triton(x.to(kernel_device), weight.to(kernel_device), EPS), loop(x, weight), dtype)
    normed, total = add_rms_norm_triton(*(value.to(kernel_device) for value in (x, residual, weight)), EPS)
    close(total, x.double() + residual.double(), dtype)
    close(normed, loop(total.cpu(), weight), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_triton_kernels_of_strided_views(kernel_device, dtype):
    qkv, weight = torch.randn(5, 8, 72).to(dtype), torch.randn(72).to(dtype)
    on_device = qkv.to(kernel_device)
    for picked in ((slice(None), slice(5)), (slice(None), slice(5, 7)), (slice(1, 4), slice(None, None, 2))):
        close(rms_norm_triton(on_device[picked], weight.to(kernel_device), EPS), loop(qkv[picked], weight), dtype)
    x, residual = qkv[:, 0], qkv[:, 3]
    normed, total = add_rms_norm_triton(on_device[:, 0], on_device[:, 3], weight.to(kernel_device), EPS)
    close(total, x.double() + residual.double(), dtype)
    close(normed, loop(total.cpu(), weight), dtype)


def test_triton_kernels_keep_a_bad_row_alone_and_take_no_rows(kernel_device):
    x, weight = torch.randn(4, 64, device=kernel_device), torch.ones(64, device=kernel_device)
    x[2, 5] = float("nan")
    for y in (rms_norm_triton(x, weight, EPS), add_rms_norm_triton(x, x, weight, EPS)[0]):
        assert torch.isnan(y[2]).all()
        assert torch.isfinite(y[[0, 1, 3]]).all()
    assert rms_norm_triton(x[:0], weight, EPS).shape == (0, 64)
    assert add_rms_norm_triton(x[:0], x[:0], weight, EPS)[0].shape == (0, 64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_triton_kernels_multiply_by_a_float32_weight_before_they_round(kernel_device, dtype):
    x, residual, w = torch.randn(5, 80).to(dtype), torch.randn(5, 80).to(dtype), torch.randn(80).to(dtype)
    weight = (1.0 + w.float()).to(kernel_device)
    one_rounding = {"rtol": torch.finfo(dtype).eps, "atol": 0.0}
    found = rms_norm_triton(x.to(kernel_device), weight, EPS)
    torch.testing.assert_close(found.cpu(), gemma(x, w), **one_rounding)
    # Of 400 values a few may round the other way; with a rounding more, every third one would differ. Triton's
    # interpreter cuts bfloat16 off instead.
    if dtype == torch.float16 or kernel_device.type == "cuda":
        assert (found.cpu() != gemma(x, w)).float().mean() < 0.02
    normed, total = add_rms_norm_triton(x.to(kernel_device), residual.to(kernel_device), weight, EPS)
    assert total.dtype == normed.dtype == dtype
    torch.testing.assert_close(normed.cpu(), gemma(total.cpu(), w), **one_rounding)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "size"), [(1, 4096), (256, 4096), (4099, 5120), (33, 16384)])
def test_large_inputs_on_a_gpu(dtype, tokens, size):
    x, residual = torch.randn(tokens, size, device="cuda") * 3, torch.randn(tokens, size, device="cuda")
    x, residual, weight = (value.to(dtype) for value in (x, residual, torch.randn(size, device="cuda")))
    expected = rms_norm_reference(x.double(), weight.double(), EPS)
    close(rms_norm(x, weight, EPS), expected.cpu(), dtype)
    normed, total = add_rms_norm(x, residual, weight, EPS)
    assert torch.equal(total, x + residual)
    close(normed, rms_norm_reference(total.double(), weight.double(), EPS).cpu(), dtype)
