"""The decoder: embeds tokens, runs them through its layers over a paged KV cache, and makes logits.

What a layer does is its block's business (blocks/). Knows neither sequences nor sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from multiflora_engine.core.forward_batch import ForwardBatch
from multiflora_engine.core.kv_cache import KVCache
from multiflora_engine.models.blocks.block import Block, ForwardStep
from multiflora_engine.models.blocks.linear import Linear, Sites, is_touched
from multiflora_engine.models.blocks.llama import llama_blocks
from multiflora_engine.models.config import ModelConfig
from multiflora_engine.models.weights import ModelWeights
from multiflora_kernels.attention.cascade import plan_cascade
from multiflora_kernels.attention.plan import AttentionPlan, CascadePlan, has_kernels, plan_attention
from multiflora_kernels.attention.step import AttentionStep
from multiflora_kernels.attention.tiles import AttentionHeads
from multiflora_kernels.lora.batched_lora import LoraSegments, lora_embedding_
from multiflora_kernels.lora.replaced_rows import has_replaced_rows, replace_embeddings_, replace_logits_
from multiflora_kernels.rms_norm import rms_norm
from multiflora_kernels.rope.step import RopeStep

MakeBlocks = Callable[[ModelConfig, ModelWeights, Sites | None], Sequence[Block]]
"""The layers of a model, in order: what a family of models brings."""


def _nothing() -> None:
    pass


class Decoder:
    """One model: its embedding, its layers, its head."""

    def __init__(
        self,
        config: ModelConfig,
        weights: ModelWeights,
        rope: tuple[torch.Tensor, torch.Tensor],
        sites: Sites | None = None,
        make_blocks: MakeBlocks = llama_blocks,
    ) -> None:
        """rope: cos, sin, each [max_model_len, rotary_dim / 2] float32. sites: the adapters' pool (`SlotPool.site`)."""
        self.between_layers: Callable[[], None] = _nothing
        """Called after each layer, so that the engine can say that it lives while a large step takes minutes."""
        self.heads = AttentionHeads(config.num_heads, config.num_kv_heads, config.head_dim, weights.dtype)
        self._takes_plans = has_kernels(weights.device, self.heads)
        self._eps = config.rms_norm_eps
        self._scale = config.head_dim**-0.5
        self._windows = frozenset(config.sliding_windows)
        self._cos, self._sin = rope
        self._embed_tokens = weights.embed_tokens
        self._embedding_site = None if sites is None else sites("model.embed_tokens")
        self._first_norm = weights.layers[0].input_norm
        self._blocks = make_blocks(config, weights, sites)
        self._head = Linear(weights.lm_head, sites)
        self._head_site = None if sites is None else sites("lm_head")

    def forward(self, batch: ForwardBatch, cache: KVCache) -> torch.Tensor:
        """Writes the KV of all T tokens and returns the last hidden states of `batch.logit_rows`: [L, H], normed."""
        step = last_step = self._step(batch)
        if batch.logit_rows is not None:
            last_step = replace(step, kept_rows=batch.logit_rows, kept_lora=batch.logit_lora)
        residual = self._embed(batch)
        x = rms_norm(residual, self._first_norm, self._eps)
        last = self._blocks[-1]
        for block, keys, values in zip(self._blocks, cache.keys, cache.values, strict=True):
            x, residual = block(x, residual, last_step if block is last else step, (keys, values))
            self.between_layers()
        return x

    def logits(self, hidden: torch.Tensor, lora: LoraSegments | None) -> torch.Tensor:
        """hidden: [L, H] from `forward`, lora: its segments. Returns [L, V] float32; on a GPU of the weights' dtype,
        which the kernels that sample convert as they read it."""
        logits = self._head(hidden, lora)
        site = self._head_site
        if lora is not None and site is not None and has_replaced_rows(site.replaced_rows, lora):
            replace_logits_(logits, hidden, site.replaced_rows, lora)
        return logits if logits.is_cuda else logits.float()

    def _embed(self, batch: ForwardBatch) -> torch.Tensor:
        """[T, H]."""
        hidden = F.embedding(batch.token_ids, self._embed_tokens)
        site = self._embedding_site
        if batch.lora is None or site is None:
            return hidden
        if is_touched(site, batch.lora):
            lora_embedding_(hidden, batch.token_ids, site, batch.lora)
        if has_replaced_rows(site.replaced_rows, batch.lora):
            replace_embeddings_(hidden, batch.token_ids, site.replaced_rows, batch.lora)
        return hidden

    def runs_in_graphs(self, slots: Collection[int]) -> bool:
        """Whether a graph can serve a batch of these adapters: not those with an embedding or a head of their own."""
        sites = (self._embedding_site, self._head_site)
        return not any(site is not None and slot in site.replaced_rows for site in sites for slot in slots)

    def _step(self, batch: ForwardBatch) -> ForwardStep:
        """What all layers share: made once, so that none of them asks the batch again."""
        places = batch.query_starts, batch.context_lens, batch.block_tables
        attention = {
            window: AttentionStep(*places, self._scale, window, plan=self._plan(batch, window))
            for window in self._windows
        }
        rope = RopeStep(self._cos, self._sin, batch.positions, batch.kv_slots)
        return ForwardStep(rope, attention, batch.lora, kept_rows=None, kept_lora=batch.lora)

    def _plan(self, batch: ForwardBatch, window: int | None) -> AttentionPlan | CascadePlan | None:
        """The attention's work for the layers of one window. Groups share keys that a window would hide from some."""
        lengths = batch.query_starts, batch.context_lens
        if window is None and batch.groups is not None:
            return plan_cascade(*lengths, batch.groups, self.heads)
        if not self._takes_plans:
            return None
        return plan_attention(*lengths, len(batch.token_ids), self.heads, window, batch.query_bounds)
