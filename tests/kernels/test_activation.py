"""Gated activations against the formulas in float64, including where exp overflows."""

from __future__ import annotations

import math

import pytest
import torch

from multiflora_kernels.activation import (
    GELU,
    GELU_TANH,
    SILU,
    clamped_swiglu,
    gate_triton,
    gelu_and_mul,
    gelu_and_mul_reference,
    silu_and_mul,
    silu_and_mul_reference,
)


def silu(x: float) -> float:
    return x / (1 + math.exp(-x)) if x > -700 else 0.0


def gelu(x: float) -> float:
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def gelu_tanh(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


OPS = {
    "silu": (silu, silu_and_mul, silu_and_mul_reference),
    "gelu": (gelu, lambda x: gelu_and_mul(x, "none"), lambda x: gelu_and_mul_reference(x, "none")),
    "gelu_tanh": (gelu_tanh, lambda x: gelu_and_mul(x, "tanh"), lambda x: gelu_and_mul_reference(x, "tanh")),
}


def loop(x: torch.Tensor, formula) -> torch.Tensor:
    gate, value = x.double().chunk(2, dim=-1)
    activated = torch.tensor([[formula(entry) for entry in row] for row in gate.tolist()], dtype=torch.float64)
    return activated * value


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize(("tokens", "width"), [(1, 7), (2, 64), (3, 33), (17, 130)])
def test_formula(path, near, name, tokens, width):
    formula, op, reference = OPS[name]
    x = torch.randn(tokens, 2 * width) * 4
    near(reference(x.double()), loop(x, formula))
    near(op(x), loop(x, formula))


@pytest.mark.parametrize("name", OPS)
def test_large_gates(path, near, name):
    formula, op, _ = OPS[name]
    gates = [-1e30, -1e4, -100.0, -88.0, -20.0, -0.0, 0.0, 1e-6, -1e-6, 20.0, 88.0, 100.0, 1e4]
    x = torch.tensor([[*gates, *[0.5] * len(gates)]])
    expected = torch.tensor([[0.5 * (0.0 if g <= -1e30 else formula(g)) for g in gates]], dtype=torch.float64)
    near(op(x), expected)


@pytest.mark.parametrize("name", OPS)
def test_nan_shows(path, name):
    x = torch.randn(2, 64)
    x[1, 3] = float("nan")
    y = OPS[name][1](x)
    assert torch.isnan(y).nonzero().tolist() == [[1, 3]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(path, dtype):
    x = torch.randn(3, 32, dtype=dtype)
    y = silu_and_mul(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), loop(x, silu), rtol=4 * torch.finfo(dtype).eps, atol=1e-3)


def test_view_of_a_wider_tensor(path, near):
    x = torch.randn(3, 100)[:, 10:74]
    near(silu_and_mul(x), loop(x, silu))


@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")  # 1 / inf is the 0 that is wanted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("kind", "formula"), [(SILU, silu), (GELU, gelu), (GELU_TANH, gelu_tanh)])
@pytest.mark.parametrize(("tokens", "width"), [(1, 7), (3, 130), (2, 1025)])
def test_triton_kernel(kernel_device, dtype, kind, formula, tokens, width):
    x = (torch.randn(tokens, 2 * width) * 4).to(dtype).to(kernel_device)
    y = gate_triton(x, kind)
    assert y.dtype == dtype
    torch.testing.assert_close(y.cpu().double(), loop(x.cpu(), formula), rtol=4 * torch.finfo(dtype).eps, atol=2e-5)


def test_clamped_swiglu(near):
    """Values on both sides of the limit; large negative gates are not cut."""
    x = torch.randn(5, 40) * 3
    gates, values = x[:, :20].double(), x[:, 20:].double()
    expected = torch.zeros(5, 20, dtype=torch.float64)
    for row in range(5):
        for column in range(20):
            gate, value = min(float(gates[row, column]), 2.0), max(-2.0, min(float(values[row, column]), 2.0))
            expected[row, column] = gate / (1 + math.exp(-1.7 * gate)) * (value + 1)
    near(clamped_swiglu(x, alpha=1.7, limit=2.0), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize(("tokens", "width"), [(1, 14336), (4099, 2816)])
def test_large_inputs_on_a_gpu(name, dtype, tokens, width):
    _, op, reference = OPS[name]
    x = (torch.randn(tokens, 2 * width, device="cuda") * 4).to(dtype)
    rtol = 4 * torch.finfo(dtype).eps + 4e-6
    torch.testing.assert_close(op(x).double(), reference(x.double()), rtol=rtol, atol=2e-5)
