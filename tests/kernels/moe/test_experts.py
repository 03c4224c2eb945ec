"""Mixtures of experts beside a loop over tokens in float64, also where the router is one-sided."""

from __future__ import annotations

import pytest
import torch

from multiflora_kernels.moe.experts import Expert, each_group, mix_experts_reference
from multiflora_kernels.moe.experts import mix_experts as mix
from multiflora_kernels.moe.routing import Routing, route

EXPERTS, HIDDEN = 5, 12


def experts(dtype: torch.dtype) -> list[Expert]:
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(EXPERTS, HIDDEN, HIDDEN, generator=generator, dtype=torch.float64).to(dtype)
    return [lambda x, w=w: torch.tanh(x @ w.T) for w in weights]  # type: ignore[misc]


def mix_experts(x: torch.Tensor, routing: Routing, experts: list[Expert]) -> torch.Tensor:
    return mix(x, routing, len(experts), lambda x, rows: each_group(x, rows, experts))


def inputs(tokens: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randn(tokens, HIDDEN, generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.randn(tokens, EXPERTS, generator=generator)


@pytest.mark.parametrize("is_normalised", [False, True])
@pytest.mark.parametrize("top_k", [1, 2, EXPERTS])
@pytest.mark.parametrize("tokens", [1, 2, 7, 33])
def test_all_experts_of_a_token_are_summed(tokens: int, top_k: int, is_normalised: bool) -> None:
    x, logits = inputs(tokens)
    routing = route(logits, top_k, is_normalised=is_normalised)
    expected = mix_experts_reference(x, routing, experts(torch.float64))
    found = mix_experts(x, routing, experts(torch.float64))
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert found.dtype == x.dtype
    assert not torch.allclose(found, torch.zeros_like(found))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_are_made_in_float32(dtype: torch.dtype) -> None:
    """The experts' own results are rounded to `dtype`; nothing else may be, before the end."""
    x, logits = inputs(9, dtype)
    routing = route(logits, 3, is_normalised=True)
    expected = mix_experts_reference(x, routing, experts(dtype))
    assert torch.allclose(mix_experts(x, routing, experts(dtype)), expected, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_all_tokens_on_one_expert_and_none_on_the_others() -> None:
    x, logits = inputs(20)
    logits[:, 3] += 100.0
    routing = route(logits, 1, is_normalised=False)
    called: list[tuple[int, int]] = []

    def recorded(index: int, expert: Expert) -> Expert:
        def run(rows: torch.Tensor) -> torch.Tensor:
            called.append((index, len(rows)))
            return expert(rows)

        return run

    kept = [recorded(index, expert) for index, expert in enumerate(experts(torch.float64))]
    found = mix_experts(x, routing, kept)
    assert called == [(3, 20)]
    assert torch.allclose(found, experts(torch.float64)[3](x), rtol=0, atol=1e-6)


def test_neighbours_change_nothing() -> None:
    """A token's sum has one order, whatever else is in the batch."""
    x, logits = inputs(40)
    alone = [mix_experts(x[t : t + 1], route(logits[t : t + 1], 2, is_normalised=True), _slow()) for t in range(40)]
    together = mix_experts(x, route(logits, 2, is_normalised=True), _slow())
    assert torch.equal(together, torch.cat(alone))


def _slow() -> list[Expert]:
    """Experts whose rows do not depend on each other, bit for bit."""
    return [lambda x, i=i: torch.tanh(x * (i + 0.3)) for i in range(EXPERTS)]  # type: ignore[misc]


def test_no_tokens_at_all() -> None:
    x, logits = inputs(0)
    assert mix_experts(x, route(logits, 2, is_normalised=True), experts(torch.float64)).shape == (0, HIDDEN)


def test_weights_are_the_routers_probabilities() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0, -3.0]])
    probabilities = torch.softmax(logits, -1)[0]
    plain, normalised = route(logits, 2, is_normalised=False), route(logits, 2, is_normalised=True)
    assert plain.experts.tolist() == normalised.experts.tolist() == [[1, 2]]
    assert torch.allclose(plain.weights[0], probabilities[[1, 2]])
    assert torch.allclose(normalised.weights[0], probabilities[[1, 2]] / probabilities[[1, 2]].sum())


def test_half_precision_logits_are_compared_in_float32() -> None:
    routing: Routing = route(torch.tensor([[1.0, 1.0078125, 0.5]], dtype=torch.bfloat16), 1, is_normalised=False)
    assert routing.weights.dtype == torch.float32
    assert routing.experts.tolist() == [[1]]
