"""The gated MLPs of a layer's experts, each token's summed, on a GPU: sorting and all products without the host.

Where adapters touch a product, what follows it waits until they have added their part, as launches of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from multiflora_kernels.activation import CLAMPED_SWIGLU, clamped_swiglu, gate_triton
from multiflora_kernels.moe.expert_lora_triton import ExpertSite, lora_experts_triton_
from multiflora_kernels.moe.grouped_triton import ExpertGate, ExpertLinears, experts_linear_triton, tile_rows
from multiflora_kernels.moe.routing import Routing
from multiflora_kernels.moe.tiles import ExpertTiles, tile_experts


@dataclass(frozen=True)
class ExpertMlps:
    """Of all experts, as kernels read them."""

    up: ExpertLinears  # [E * 2 I, H]: of each expert the rows of gate, then those of up
    down: ExpertLinears  # [E * H, I]
    gate: ExpertGate


@dataclass(frozen=True)
class TouchedLinears:
    """The linears of one product, with what adapters of the batch have there."""

    sites: Sequence[ExpertSite]
    columns: Sequence[tuple[int, int]]  # (first, end) of the product for each
    row_slots: torch.Tensor  # int32 [T]: each token's slot, -1 of the base's


def mix_expert_mlps_triton(
    x: torch.Tensor,
    routing: Routing,
    mlps: ExpertMlps,
    up: TouchedLinears | None = None,
    down: TouchedLinears | None = None,
) -> torch.Tensor:
    """x: [T, H]. Semantics: `mix_experts_reference` with expert e = down_e(gate(up_e(x))), each product with its
    adapters' part (`lora_experts_reference_`) before its bias; returns [T, H]. up, down: None where no adapter is.

    Inside, values are rounded to x's dtype as the products are; without adapters weighted results are, too. The sum is
    float32.
    """
    if len(x) == 0:
        return torch.zeros_like(x)
    tiles = tile_experts(routing.experts, mlps.up.num_experts, tile_rows(routing.experts.numel(), mlps.up, x.dtype))
    if up is None:
        hidden = experts_linear_triton(x, mlps.up, tiles, has_row_for_token=True, gate=mlps.gate)
    else:
        hidden = _gated(_adapted(x, mlps.up, tiles, routing, up, has_row_for_token=True), mlps.gate)
    if down is None:
        weights = routing.weights
        y = experts_linear_triton(hidden, mlps.down, tiles, has_row_for_token=False, weights=weights)
        return y.view(*routing.experts.shape, -1).sum(1)
    y = _adapted(hidden, mlps.down, tiles, routing, down, has_row_for_token=False)
    weighted = y.view(*routing.experts.shape, -1).float() * routing.weights[..., None]
    return weighted.sum(1).to(x.dtype)


def _adapted(
    x: torch.Tensor,
    linears: ExpertLinears,
    tiles: ExpertTiles,
    routing: Routing,
    touched: TouchedLinears,
    *,
    has_row_for_token: bool,
) -> torch.Tensor:
    """[P, N]: the product, adapters' parts, and last the bias, since each expert has its own, which a magnitude does
    not scale."""
    y = experts_linear_triton(x, linears, tiles, has_row_for_token=has_row_for_token, adds_bias=False)
    lora_experts_triton_(
        y, x, touched.sites, touched.columns, tiles, touched.row_slots, has_row_for_token=has_row_for_token
    )  # fmt: skip
    return y if linears.bias is None else y.add_(linears.bias[routing.experts.flatten()])


def _gated(y: torch.Tensor, gate: ExpertGate) -> torch.Tensor:
    if gate.kind == CLAMPED_SWIGLU:
        return clamped_swiglu(y, alpha=gate.alpha, limit=gate.limit)
    return gate_triton(y, gate.kind)
