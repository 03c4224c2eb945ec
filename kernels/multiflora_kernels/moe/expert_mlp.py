"""The gated MLPs of a layer's experts, each token's summed, on a GPU: sorting and both products without the host.

Knows no adapters: where they touch experts, `mix_experts` calls products one after another.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from multiflora_kernels.moe.grouped_triton import ExpertGate, ExpertLinears, experts_linear_triton, tile_rows
from multiflora_kernels.moe.routing import Routing
from multiflora_kernels.moe.tiles import tile_experts


@dataclass(frozen=True)
class ExpertMlps:
    """Of all experts, as kernels read them."""

    up: ExpertLinears  # [E * 2 I, H]: of each expert the rows of gate, then those of up
    down: ExpertLinears  # [E * H, I]
    gate: ExpertGate


def mix_expert_mlps_triton(x: torch.Tensor, routing: Routing, mlps: ExpertMlps) -> torch.Tensor:
    """x: [T, H]. Semantics: `mix_experts_reference` with expert e = down_e(gate(up_e(x))); returns [T, H].

    Inside, values are rounded to x's dtype as the products are; weighted results are, too, and summed in float32.
    """
    if len(x) == 0:
        return torch.zeros_like(x)
    tiles = tile_experts(routing.experts, mlps.up.num_experts, tile_rows(routing.experts.numel(), mlps.up, x.dtype))
    hidden = experts_linear_triton(x, mlps.up, tiles, has_row_for_token=True, gate=mlps.gate)
    y = experts_linear_triton(hidden, mlps.down, tiles, has_row_for_token=False, weights=routing.weights)
    return y.view(*routing.experts.shape, -1).sum(1)
