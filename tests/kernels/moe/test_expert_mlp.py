"""Mixtures of gated MLPs in Triton beside the definition in float64: interpreted at small shapes, compiled on a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.kernels.linear.cases import random_integers
from tests.kernels.linear.test_narrow_triton import to

from multiflora_kernels.activation import (
    CLAMPED_SWIGLU,
    GELU,
    GELU_TANH,
    SILU,
    clamped_swiglu,
    gelu_and_mul_reference,
    silu_and_mul_reference,
)
from multiflora_kernels.linear.narrow_matrix import NarrowMatrix
from multiflora_kernels.linear.quantised import INT8, IntegerForm
from multiflora_kernels.moe.expert_mlp import ExpertMlps, mix_expert_mlps_triton
from multiflora_kernels.moe.experts import Expert, mix_experts_reference
from multiflora_kernels.moe.grouped_triton import ExpertGate, ExpertLinears
from multiflora_kernels.moe.routing import Routing, route

TOLERANCES = {torch.float32: 1e-5, torch.float16: 2**-9, torch.bfloat16: 2**-6}
"""Of the largest result: what comes out is rounded, and so are the gate's values and each expert's result before."""

GATES = {
    SILU: silu_and_mul_reference,
    GELU: lambda x: gelu_and_mul_reference(x, "none"),
    GELU_TANH: lambda x: gelu_and_mul_reference(x, "tanh"),
    CLAMPED_SWIGLU: lambda x: clamped_swiglu(x, alpha=1.702, limit=1.5),
}


def linears(
    experts: int, columns: int, k: int, dtype: torch.dtype, has_bias: bool, form: IntegerForm | None
) -> tuple[ExpertLinears, torch.Tensor]:
    """(as kernels read them, the weights in float64 [E, N, K])."""
    bias = torch.randn(experts, columns).to(dtype) / 4 if has_bias else None
    if form is not None:
        weight, values = random_integers(form, experts * columns, k)
        return ExpertLinears(weight.matrix, bias, experts), values.view(experts, columns, k)
    values = torch.randn(experts * columns, k).to(dtype) * k**-0.5
    return ExpertLinears(NarrowMatrix(values), bias, experts), values.double().view(experts, columns, k)


def made(
    experts: int, hidden: int, size: int, dtype: torch.dtype, kind: int = SILU, *, has_bias: bool = False,
    form: IntegerForm | None = None,
) -> tuple[ExpertMlps, list[Expert]]:  # fmt: skip
    """(as kernels read them, one by one in float64)."""
    up, ups = linears(experts, 2 * size, hidden, dtype, has_bias, form)
    down, downs = linears(experts, hidden, size, dtype, has_bias, form)

    def expert(index: int) -> Expert:
        def run(x: torch.Tensor) -> torch.Tensor:
            inside = x @ ups[index].T + (0 if up.bias is None else up.bias[index].double())
            return GATES[kind](inside) @ downs[index].T + (0 if down.bias is None else down.bias[index].double())

        return run

    return ExpertMlps(up, down, ExpertGate(kind, 1.702, 1.5)), [expert(index) for index in range(experts)]


def there(mlps: ExpertMlps, device: torch.device) -> ExpertMlps:
    def moved(one: ExpertLinears) -> ExpertLinears:
        return replace(one, matrix=to(one.matrix, device), bias=None if one.bias is None else one.bias.to(device))

    return replace(mlps, up=moved(mlps.up), down=moved(mlps.down))


def check(x: torch.Tensor, routing: Routing, mlps: ExpertMlps, experts: list[Expert], device: torch.device) -> None:
    on_device = Routing(routing.experts.to(device), routing.weights.to(device))
    y = mix_expert_mlps_triton(x.to(device), on_device, there(mlps, device))
    expected = mix_experts_reference(x.double(), routing, experts)
    assert y.shape == expected.shape
    assert y.dtype == x.dtype
    assert torch.isfinite(y).all()
    error = (y.cpu().double() - expected).abs().max().item()
    assert error <= TOLERANCES[x.dtype] * max(1.0, expected.abs().max().item()), error


@pytest.mark.parametrize(
    ("tokens", "top_k", "experts", "hidden", "size", "dtype"),
    [
        (1, 1, 3, 40, 24, torch.float32),
        (1, 8, 64, 72, 20, torch.float32),
        (9, 2, 5, 136, 72, torch.bfloat16),
        (40, 3, 3, 40, 24, torch.float16),
        (33, 8, 8, 24, 40, torch.float32),
    ],
)
def test_shapes(kernel_device, tokens, top_k, experts, hidden, size, dtype):
    """One token, experts without tokens, sizes that fill no tile."""
    mlps, one_by_one = made(experts, hidden, size, dtype)
    x = torch.randn(tokens, hidden).to(dtype)
    check(x, route(torch.randn(tokens, experts), top_k, is_normalised=True), mlps, one_by_one, kernel_device)


@pytest.mark.parametrize("kind", GATES)
def test_gates_and_biases(kernel_device, kind):
    mlps, experts = made(4, 48, 20, torch.float32, kind, has_bias=True)
    routing = route(torch.randn(7, 4), 2, is_normalised=False)
    check(2 * torch.randn(7, 48), routing, mlps, experts, kernel_device)


@pytest.mark.parametrize(
    "form", [IntegerForm(4, 32, has_zeros=True), IntegerForm(4, 64, table=tuple(range(-8, 8))), INT8], ids=str
)
def test_experts_of_few_bits(kernel_device, form):
    mlps, experts = made(3, 64, 64, torch.float32, has_bias=True, form=form)
    check(torch.randn(5, 64), route(torch.randn(5, 3), 2, is_normalised=True), mlps, experts, kernel_device)


@pytest.mark.parametrize(("tokens", "dtype"), [(150, torch.bfloat16), (40, torch.float32)])
def test_all_tokens_on_one_expert(kernel_device, tokens, dtype):
    """Tiles are made for the average; one expert has more than a tile of them."""
    mlps, experts = made(3, 24, 16, dtype)
    logits = torch.randn(tokens, 3)
    logits[:, 1] += 100.0
    check(torch.randn(tokens, 24).to(dtype), route(logits, 1, is_normalised=False), mlps, experts, kernel_device)


def test_a_token_keeps_its_bits_whatever_its_neighbours_are(kernel_device):
    """Rows that fill up a graph's batch may hold anything."""
    mlps = there(made(4, 40, 24, torch.float32)[0], kernel_device)
    x, routing = torch.randn(6, 40), route(torch.randn(6, 4), 2, is_normalised=True)
    x[5] = float("nan")
    on_device = Routing(routing.experts.to(kernel_device), routing.weights.to(kernel_device))
    together = mix_expert_mlps_triton(x.to(kernel_device), on_device, mlps)
    alone = Routing(on_device.experts[2:3], on_device.weights[2:3])
    assert torch.equal(together[2:3], mix_expert_mlps_triton(x[2:3].to(kernel_device), alone, mlps))
    assert torch.isnan(together[5]).all()


def test_no_tokens_at_all(kernel_device):
    mlps = there(made(3, 40, 24, torch.float32)[0], kernel_device)
    routing = route(torch.randn(0, 3, device=kernel_device), 2, is_normalised=True)
    assert mix_expert_mlps_triton(torch.randn(0, 40, device=kernel_device), routing, mlps).shape == (0, 40)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("form", [None, IntegerForm(4, 32, has_zeros=True), INT8], ids=str)
@pytest.mark.parametrize(("experts", "top_k"), [(8, 2), (64, 8)])
@pytest.mark.parametrize("tokens", [1, 7, 200, 1500])
def test_on_a_gpu(tokens, experts, top_k, form, dtype):
    """Fresh random inputs at serving size; nothing waits for the device."""
    torch.seed()
    device = torch.device("cuda")
    mlps, one_by_one = made(experts, 512, 768, dtype, has_bias=form is not None, form=form)
    x, routing = torch.randn(tokens, 512).to(dtype), route(torch.randn(tokens, experts), top_k, is_normalised=True)
    on_device = Routing(routing.experts.to(device), routing.weights.to(device))
    kernels, x_there = there(mlps, device), x.to(device)
    mix_expert_mlps_triton(x_there, on_device, kernels)
    torch.cuda.set_sync_debug_mode("error")
    try:
        mix_expert_mlps_triton(x_there, on_device, kernels)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    check(x, routing, mlps, one_by_one, device)
