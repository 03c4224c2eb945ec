"""The one decoder of all families: pre-norm attention and gated MLP over a paged KV cache, with LoRA at every linear.

What differs between families is data (ModelConfig, ModelWeights). Knows neither sequences nor sampling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from multiflora_engine.core.forward_batch import ForwardBatch
from multiflora_engine.core.kv_cache import KVCache
from multiflora_engine.models.config import Activation, ModelConfig
from multiflora_engine.models.linear import Linear, Sites, is_touched
from multiflora_engine.models.weights import LayerWeights, ModelWeights
from multiflora_kernels.activation import gelu_and_mul, silu_and_mul
from multiflora_kernels.attention.cascade import CascadePlan, plan_cascade
from multiflora_kernels.attention.paged_attention import paged_attention
from multiflora_kernels.attention.plan import AttentionPlan, plan_attention
from multiflora_kernels.attention.tiles import AttentionHeads
from multiflora_kernels.lora.batched_lora import LoraSegments, lora_embedding_
from multiflora_kernels.lora.fused_linear import (
    ShrunkDelta,
)
from multiflora_kernels.rms_norm import add_rms_norm, rms_norm
from multiflora_kernels.rope.qk_norm import QKNorm
from multiflora_kernels.rope.rope_and_kv import fold_into_rope, rope_and_write_kv


def _gelu(x: torch.Tensor, delta: ShrunkDelta | None) -> torch.Tensor:
    return gelu_and_mul(x, "none", delta)


def _gelu_tanh(x: torch.Tensor, delta: ShrunkDelta | None) -> torch.Tensor:
    return gelu_and_mul(x, "tanh", delta)


_ACTIVATIONS: dict[Activation, Callable[[torch.Tensor, ShrunkDelta | None], torch.Tensor]] = {
    "silu": silu_and_mul,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
}


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class _Layer:
    weights: LayerWeights
    qkv: Linear
    o: Linear
    gate_up: Linear
    down: Linear


class Decoder:
    """rope: cos, sin [max_model_len, rotary_dim / 2] float32. sites: the adapters' pool (`SlotPool.site`), or None.

    between_layers: called after each layer, by whoever must not be silent for as long as a large step takes.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: ModelWeights,
        rope: tuple[torch.Tensor, torch.Tensor],
        sites: Sites | None = None,
    ) -> None:
        self.between_layers: Callable[[], None] = _nothing
        self._config = config
        self._weights = weights
        self._cos, self._sin = rope
        self._scale = config.head_dim**-0.5
        self.heads = AttentionHeads(config.num_heads, config.num_kv_heads, config.head_dim, weights.dtype)
        self._activation = _ACTIVATIONS[config.activation]
        self._embedding_site = None if sites is None else sites("model.embed_tokens")
        self._head = Linear(weights.lm_head, sites)
        self._layers = [
            _Layer(w, Linear(w.qkv, sites), Linear(w.o, sites), Linear(w.gate_up, sites), Linear(w.down, sites))
            for w in weights.layers
        ]

    def forward(self, batch: ForwardBatch, cache: KVCache) -> torch.Tensor:
        """Writes the KV of all T tokens and returns the last hidden states of `batch.logit_rows`: [L, H], normed."""
        eps = self._config.rms_norm_eps
        lora = batch.lora
        plans = self._plans(batch)
        residual = self._embed(batch)
        x = rms_norm(residual, self._weights.layers[0].input_norm, eps)
        last = len(self._layers) - 1
        for index, layer in enumerate(self._layers):
            plan = plans[layer.weights.sliding_window]
            x = self._attend(layer, x, batch, plan, cache.keys[index], cache.values[index])
            if index == last and batch.logit_rows is not None:
                # From here on each token is on its own: what nobody asks for is not computed.
                x, residual, lora = x[batch.logit_rows], residual[batch.logit_rows], batch.logit_lora
            x, delta = layer.o.with_full_delta(x, lora)
            x, residual = add_rms_norm(x, residual, layer.weights.post_norm, eps, delta)
            x, delta = layer.down.with_full_delta(self._activation(*layer.gate_up.with_shrunk_delta(x, lora)), lora)
            norm = self._weights.norm if index == last else self._weights.layers[index + 1].input_norm
            x, residual = add_rms_norm(x, residual, norm, eps, delta)
            self.between_layers()
        return x

    def logits(self, hidden: torch.Tensor, lora: LoraSegments | None) -> torch.Tensor:
        """hidden: [L, H] from `forward`, lora: its segments. Returns [L, V] float32; on a GPU of the weights' dtype,
        which the kernels that sample convert as they read it."""
        logits = self._head(hidden, lora)
        return logits if logits.is_cuda else logits.float()

    def _embed(self, batch: ForwardBatch) -> torch.Tensor:
        hidden = F.embedding(batch.token_ids, self._weights.embed_tokens)
        site = self._embedding_site
        if batch.lora is not None and site is not None and is_touched(site, batch.lora):
            lora_embedding_(hidden, batch.token_ids, site, batch.lora)
        return hidden

    def _plans(self, batch: ForwardBatch) -> dict[int | None, AttentionPlan | CascadePlan | None]:
        """The step's attention work, once for all layers of each sliding window."""
        tokens = len(batch.token_ids)
        return {
            window: plan_attention(
                batch.query_starts, batch.context_lens, tokens, self.heads, window, batch.query_bounds
            )
            if window is not None or batch.groups is None
            else plan_cascade(batch.query_starts, batch.context_lens, batch.groups, self.heads)
            for window in {layer.weights.sliding_window for layer in self._layers}
        }

    def _attend(
        self,
        layer: _Layer,
        x: torch.Tensor,
        batch: ForwardBatch,
        plan: AttentionPlan | CascadePlan | None,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        """x: [T, H] -> [T, Hq * D]; writes keys and values first, so that same-step twins see each other's blocks."""
        config, weights = self._config, layer.weights
        heads, kv_heads = config.num_heads, config.num_kv_heads
        y, delta = layer.qkv.with_shrunk_delta(x, batch.lora)
        delta = fold_into_rope(y, delta, config.head_dim, 2 * self._cos.shape[1])
        qkv = y.view(-1, heads + 2 * kv_heads, config.head_dim)
        q, k, v = qkv[:, :heads], qkv[:, heads : heads + kv_heads], qkv[:, heads + kv_heads :]
        norms = None
        if weights.q_norm is not None and weights.k_norm is not None:
            norms = QKNorm(weights.q_norm, weights.k_norm, config.rms_norm_eps)
        places = batch.positions, batch.kv_slots
        q = rope_and_write_kv(q, k, v, self._cos, self._sin, *places, keys, values, norms, delta)
        attended = paged_attention(
            q,
            keys,
            values,
            batch.query_starts,
            batch.context_lens,
            batch.block_tables,
            self._scale,
            weights.sliding_window,
            plan=plan,
        )
        return attended.view(len(attended), -1)
