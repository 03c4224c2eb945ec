"""One linear, or several stacked, of all experts of a layer, with their adapters. Knows neither routing nor MLPs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from multiflora_engine.models.blocks.linear import Sites
from multiflora_engine.models.weights import Projection
from multiflora_kernels.lora.batched_lora import LoraSegments
from multiflora_kernels.moe.expert_lora import AdapterRuns, lora_experts_
from multiflora_kernels.moe.expert_mlp import TouchedLinears
from multiflora_kernels.moe.experts import ExpertRows, each_group


class ExpertProjection:
    """Semantics, for a row p of expert e: y[p] = W_e @ x[p], what the row's adapter makes of it, and bias_e."""

    def __init__(self, experts: Sequence[Projection], linears: Sequence[str], sites: Sites | None) -> None:
        """experts: of each, the same linears stacked; linears: their names (`ExpertLinear.name`)."""
        self._products = [projection.weight.matmul for projection in experts]
        self._biases = [projection.bias for projection in experts if projection.bias is not None]
        self._columns = [(first, end) for _, first, end in experts[0].sites]
        self._loras = [] if sites is None else [sites.experts(linear) for linear in linears]
        self._sites = [] if sites is None else [sites.expert_site(linear) for linear in linears]

    @property
    def slots(self) -> set[int]:
        """Of resident adapters that touch it."""
        return {slot for by_slot in self._loras for slot in by_slot}

    def touched(self, lora: LoraSegments | None) -> TouchedLinears | None:
        """What adapters of the batch have here, for kernels. A graph is asked for anew when adapters come that touch
        what none did (see `SlotPool.layout`)."""
        slots = self.slots
        if lora is None or not slots or not (lora.is_static or slots.intersection(lora.host_slots)):
            return None
        assert lora.tiles is not None, "kernels have their rows' slots on the device"
        return TouchedLinears(self._sites, self._columns, lora.tiles.row_slots)

    def __call__(self, x: torch.Tensor, rows: ExpertRows, runs: AdapterRuns) -> torch.Tensor:
        """x: [P, K], sorted by expert -> [P, N]."""
        y = each_group(x, rows, self._products)
        lora_experts_(y, x, self._loras, self._columns, runs)
        # Last, since each expert has its own, which a magnitude does not scale.
        return each_group(y, rows, [bias.add for bias in self._biases]) if self._biases else y
