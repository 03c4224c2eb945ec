"""The two halves of a layer: self-attention up to its output projection, and the MLP.

Know neither the norms between them nor residuals: how halves are joined, blocks say.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch

from multiflora_engine.core.rank_group import RankGroup
from multiflora_engine.models.blocks.block import ForwardStep, LayerCache
from multiflora_engine.models.blocks.expert_projection import ExpertProjection
from multiflora_engine.models.blocks.linear import Linear, Sites
from multiflora_engine.models.blocks.norms import fused_head_norms, head_norms
from multiflora_engine.models.configuration.model_config import Activation, ModelConfig
from multiflora_engine.models.families.mixture import Mixture
from multiflora_engine.models.weights import ExpertStack, LayerWeights, MixtureWeights, MlpWeights
from multiflora_kernels.activation import (
    CLAMPED_SWIGLU,
    GELU,
    GELU_TANH,
    SILU,
    activate,
    clamped_swiglu,
    gelu_and_mul,
    silu_and_mul,
)
from multiflora_kernels.attention.paged_attention import paged_attention
from multiflora_kernels.linear.narrow_matrix import NarrowMatrix
from multiflora_kernels.linear.quantised import QuantisedWeight
from multiflora_kernels.lora.batched_lora import LoraSegments
from multiflora_kernels.lora.fused_linear import FullDelta, ShrunkDelta, completed
from multiflora_kernels.moe.expert_lora import AdapterRuns, adapter_runs
from multiflora_kernels.moe.expert_mlp import ExpertMlps, mix_expert_mlps_triton
from multiflora_kernels.moe.experts import ExpertRows, mix_experts
from multiflora_kernels.moe.grouped_triton import ExpertGate, ExpertLinears
from multiflora_kernels.moe.routing import route
from multiflora_kernels.rope.rope_and_kv import fold_into_rope, rope_and_write_kv
from multiflora_kernels.runtime.triton import runs_kernels


class SelfAttention:
    """Projection to q, k and v, rotation, the write to the cache, and attention over it."""

    def __init__(
        self,
        config: ModelConfig,
        layer: int,
        weights: LayerWeights,
        sites: Sites | None,
        ranks: RankGroup | None = None,
    ) -> None:
        self._qkv = Linear(weights.qkv, sites)
        self._head_dim = config.head_dim
        self._limit = config.form.qkv_limit
        self._parts = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
        self._window = config.sliding_windows[layer]
        self._rope = config.rope_of_layer[layer]
        self._sinks = None if weights.sinks is None else weights.sinks.values[slice(*config.heads)]
        self._fused_norms = fused_head_norms(config, weights)
        self._norms = None if self._fused_norms is not None else head_norms(config, weights, ranks)

    def __call__(self, x: torch.Tensor, step: ForwardStep, cache: LayerCache) -> torch.Tensor:
        """x: [T, H] -> [T, Hq * D]."""
        rope = step.ropes[self._rope]
        y, delta = self._qkv.with_shrunk_delta(x, step.lora)
        if delta is not None and (self._norms is not None or self._limit is not None):
            delta.add_to_(y)
            delta = None
        elif delta is not None:
            delta = fold_into_rope(y, delta, self._head_dim, rope.rotary, cache[0])
        if self._limit is not None:
            y.clamp_(-self._limit, self._limit)
        qkv = y.view(-1, sum(self._parts), self._head_dim)
        q, k, v = qkv.split_with_sizes(self._parts, dim=1)
        if self._norms is not None:
            q, k = self._norms[0](q), self._norms[1](k)
        # Keys and values first: sequences of one step that share a prefix read what the other one has just written.
        q = rope_and_write_kv(q, k, v, *cache, rope, self._fused_norms, delta)
        return paged_attention(q, *cache, step.attention[self._window], self._sinks).view(len(y), -1)


class Mlp(Protocol):
    """The second half of a layer."""

    def __call__(self, x: torch.Tensor, lora: LoraSegments | None) -> tuple[torch.Tensor, FullDelta | None]:
        """x: [T, H]. Returns y [T, H], and what of the adapters' delta the consumer of y must still add."""
        ...


def _gelu(x: torch.Tensor, delta: ShrunkDelta | None) -> torch.Tensor:
    return gelu_and_mul(x, "none", delta)


def _gelu_tanh(x: torch.Tensor, delta: ShrunkDelta | None) -> torch.Tensor:
    return gelu_and_mul(x, "tanh", delta)


Gate = Callable[[torch.Tensor, ShrunkDelta | None], torch.Tensor]
"""(x: [T, 2 I], gate first; what is still to be added to it) -> [T, I]."""

_GATES: dict[Activation, Gate] = {
    "silu": silu_and_mul,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
}


class GatedMlp:
    """Semantics: y = down(activation(gate(x)) * up(x)), each linear with its adapters."""

    def __init__(self, gate: Gate, weights: MlpWeights, sites: Sites | None) -> None:
        self._activation = gate
        self._gate_up = Linear(weights.up, sites)
        self._down = Linear(weights.down, sites)

    def __call__(self, x: torch.Tensor, lora: LoraSegments | None) -> tuple[torch.Tensor, FullDelta | None]:
        """See `Mlp`."""
        y, delta = self._gate_up.with_shrunk_delta(x, lora)
        return self._down.with_full_delta(self._activation(y, delta), lora)


class PlainMlp:
    """Semantics: y = down(activation(up(x))), each linear with its adapters."""

    def __init__(self, activation: Activation, weights: MlpWeights, sites: Sites | None) -> None:
        self._activation = activation
        self._up = Linear(weights.up, sites)
        self._down = Linear(weights.down, sites)

    def __call__(self, x: torch.Tensor, lora: LoraSegments | None) -> tuple[torch.Tensor, FullDelta | None]:
        """See `Mlp`."""
        return self._down.with_full_delta(activate(self._up(x, lora), self._activation), lora)


class MixtureMlp:
    """Semantics: y = sum of w_e * expert_e(x) over the top k experts, + sigmoid(shared_gate(x)) * shared(x) where there
    is a shared expert; experts are gated MLPs, and the router and all linears have their adapters."""

    def __init__(self, activation: Activation, weights: MixtureWeights, sites: Sites | None) -> None:
        self._mixture = weights.mixture
        self._mlps = expert_mlps(activation, weights)
        self._router = Linear(weights.router, sites)
        self._activation = _gate_of_experts(activation, weights.mixture)
        self._gate_up = ExpertProjection([expert.up for expert in weights.experts], weights.up_linears, sites)
        self._down = ExpertProjection([expert.down for expert in weights.experts], [weights.down_linear], sites)
        self._shared = None if weights.shared is None else GatedMlp(_GATES[activation], weights.shared, sites)
        self._shared_gate = None if weights.shared_gate is None else Linear(weights.shared_gate, sites)

    def __call__(self, x: torch.Tensor, lora: LoraSegments | None) -> tuple[torch.Tensor, FullDelta | None]:
        """See `Mlp`."""
        routing = route(self._router(x, lora), self._mixture.top_k, is_normalised=self._mixture.is_normalised)
        if self._mlps is not None and runs_kernels(x.device):
            touched = self._gate_up.touched(lora), self._down.touched(lora)
            y = mix_expert_mlps_triton(x, routing, self._mlps, *touched)
        else:
            y = mix_experts(x, routing, self._mixture.num_experts, partial(self._experts, lora))
        if self._shared is None or self._shared_gate is None:
            return y, None
        shared = completed(*self._shared(x, lora))
        return y + torch.sigmoid(self._shared_gate(x, lora)) * shared, None

    def _experts(self, lora: LoraSegments | None, x: torch.Tensor, rows: ExpertRows) -> torch.Tensor:
        """x: [P, H], sorted by expert. Returns [P, H], each row from its expert."""
        runs: AdapterRuns = ()
        if lora is not None and (slots := self._gate_up.slots | self._down.slots):
            runs = adapter_runs(rows, lora, slots)
        hidden = self._activation(self._gate_up(x, rows, runs), None)
        return self._down(hidden, rows, runs)


_KINDS: dict[Activation, int] = {"silu": SILU, "gelu": GELU, "gelu_tanh": GELU_TANH}


def expert_mlps(activation: Activation, weights: MixtureWeights) -> ExpertMlps | None:
    """As kernels read them; None where not all experts are kept alike."""
    if weights.up is None or weights.down is None:
        return None
    gate = weights.mixture.gate
    return ExpertMlps(
        _expert_linears(weights.up, weights.mixture),
        _expert_linears(weights.down, weights.mixture),
        ExpertGate(_KINDS[activation]) if gate is None else ExpertGate(CLAMPED_SWIGLU, gate.alpha, gate.limit),
    )


def _expert_linears(stack: ExpertStack, mixture: Mixture) -> ExpertLinears:
    weight = stack.weight
    if isinstance(weight, QuantisedWeight):
        return ExpertLinears(weight.matrix, stack.bias, mixture.num_experts, weight.inputs)
    return ExpertLinears(NarrowMatrix(weight.tensor), stack.bias, mixture.num_experts)


def _gate_of_experts(activation: Activation, mixture: Mixture) -> Gate:
    if mixture.gate is None:
        return _GATES[activation]
    return partial(clamped_swiglu, alpha=mixture.gate.alpha, limit=mixture.gate.limit)


def make_mlp(config: ModelConfig, weights: MlpWeights | MixtureWeights, sites: Sites | None) -> Mlp:
    if isinstance(weights, MixtureWeights):
        return MixtureMlp(config.activation, weights, sites)
    if config.form.is_gated:
        return GatedMlp(_GATES[config.activation], weights, sites)
    return PlainMlp(config.activation, weights, sites)
