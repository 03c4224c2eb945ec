"""The decoder: embeds tokens, runs them through its layers over a paged KV cache, and makes logits.

What a layer does is its block's business (blocks/). Knows neither sequences nor sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from multiflora_engine.core.forward_batch import ForwardBatch
from multiflora_engine.core.kv_cache import KVCache
from multiflora_engine.core.rank_group import RankGroup
from multiflora_engine.models.blocks.block import ForwardStep
from multiflora_engine.models.blocks.layers import make_blocks
from multiflora_engine.models.blocks.linear import Linear, LivePoolSite, Sites, is_touched
from multiflora_engine.models.blocks.norms import make_norm, optional_norm
from multiflora_engine.models.config import ModelConfig
from multiflora_engine.models.weights import MixtureWeights, ModelWeights
from multiflora_kernels.attention.cascade import plan_cascade
from multiflora_kernels.attention.plan import AttentionPlan, CascadePlan, has_kernels, plan_attention
from multiflora_kernels.attention.step import AttentionStep
from multiflora_kernels.attention.tiles import AttentionHeads
from multiflora_kernels.lora.batched_lora import LoraSegments, lora_embedding_
from multiflora_kernels.lora.replaced_rows import has_replaced_rows, replace_embeddings_, replace_logits_
from multiflora_kernels.rope.move import KvMoves, move_kv, turn_by
from multiflora_kernels.rope.step import RopeStep

RopeTables = tuple[torch.Tensor, torch.Tensor]
"""cos, sin, each [max_model_len, rotary_dim / 2] float32."""
_MOST_MOVES = 4096
"""Tokens that are copied at once, so that documents of any length take no more memory beside the cache."""


def _nothing() -> None:
    pass


class InputEmbedding:
    """Token embeddings with the adapters' part, scaled, and what some families add: positions, a norm."""

    def __init__(self, config: ModelConfig, weights: ModelWeights, sites: Sites | None) -> None:
        self.site: LivePoolSite | None = None if sites is None else sites.site(weights.embedding_site)
        self._tokens = weights.embed_tokens
        self._dtype = weights.dtype
        # Rounded as the models round it when they are trained.
        self._scale = torch.tensor(config.form.scales.embedding, dtype=weights.dtype).item()
        self._positions = weights.embed_positions
        self._position_offset = config.form.position_offset
        self._norm = optional_norm(config, weights.embedding_norm)

    def __call__(self, batch: ForwardBatch) -> torch.Tensor:
        """[T, H]."""
        hidden = self._embed(batch)
        if self._scale != 1.0:
            hidden = hidden * self._scale
        if self._positions is not None:
            hidden = hidden + F.embedding(batch.positions + self._position_offset, self._positions)
        return hidden if self._norm is None else self._norm.apply(hidden)

    def _embed(self, batch: ForwardBatch) -> torch.Tensor:
        hidden = F.embedding(batch.token_ids, self._tokens).to(self._dtype)
        if batch.lora is None or self.site is None:
            return hidden
        if is_touched(self.site, batch.lora):
            lora_embedding_(hidden, batch.token_ids, self.site, batch.lora)
        if has_replaced_rows(self.site.replaced_rows, batch.lora):
            replace_embeddings_(hidden, batch.token_ids, self.site.replaced_rows, batch.lora)
        return hidden


class Head:
    """Logits of hidden states, scaled and capped where the family does so."""

    def __init__(
        self, config: ModelConfig, weights: ModelWeights, sites: Sites | None, ranks: RankGroup | None
    ) -> None:
        """ranks: that each have the rows of some tokens."""
        if config.form.head_is_normalised:
            sites = None
        self._ranks = ranks
        self._vocab_size = config.vocab_size
        self.site: LivePoolSite | None = None if sites is None else sites.site(config.form.modules.head)
        self._linear = Linear(weights.lm_head, sites)
        self._scale = config.form.scales.logits
        self._softcap = config.form.scales.logit_softcap

    def __call__(self, hidden: torch.Tensor, lora: LoraSegments | None) -> torch.Tensor:
        """hidden: [L, H], normed; lora: its segments. Returns [L, V] float32; on a GPU of the weights' dtype, which the
        kernels that sample convert as they read it."""
        logits = self._linear(hidden, lora)
        if lora is not None and self.site is not None and has_replaced_rows(self.site.replaced_rows, lora):
            replace_logits_(logits, hidden, self.site.replaced_rows, lora)
        if self._scale != 1.0:
            logits = logits * self._scale
        if self._softcap is not None:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        if self._ranks is not None:
            logits = self._ranks.gather_columns(logits, self._vocab_size)
        return logits if logits.is_cuda else logits.float()


class Decoder:
    """One model: its embedding, its layers, its head."""

    def __init__(
        self,
        config: ModelConfig,
        weights: ModelWeights,
        ropes: Sequence[RopeTables],
        sites: Sites | None = None,
        ranks: RankGroup | None = None,
    ) -> None:
        """ropes: the tables of the configuration's, in their order. sites: the adapters' pool. ranks: where the
        configuration is one's part of a model, those that compute it together, pass by pass."""
        self.between_layers: Callable[[], None] = _nothing
        """Called after each layer, so that the engine can say that it lives while a large step takes minutes."""
        self.heads = AttentionHeads(config.num_heads, config.num_kv_heads, config.head_dim, weights.dtype)
        self._takes_plans = has_kernels(weights.device, self.heads)
        scale = config.form.scales.attention
        self._scale = config.head_dim**-0.5 if scale is None else scale
        self._softcap = config.form.scales.attention_softcap
        slopes = config.form.slopes
        self._slopes = torch.tensor(slopes, dtype=torch.float32, device=weights.device) if slopes else None
        self._has_sinks = config.form.modules.sinks is not None
        self._windows = frozenset(config.sliding_windows)
        self._ropes = tuple(ropes)
        self._rope_of_layer = config.rope_of_layer
        self._embedding = InputEmbedding(config, weights, sites)
        self._first_norm = make_norm(config, weights.layers[0].input_norm)
        self._experts_loras = [] if sites is None else _loras_of_experts(weights, sites)
        self._blocks = make_blocks(config, weights, sites, ranks)
        self._head = Head(config, weights, sites, ranks)

    def heads_for(self, cache: KVCache) -> AttentionHeads:
        """As attention over this cache has them."""
        return replace(self.heads, reads_codes=cache.is_quantised)

    def forward(self, batch: ForwardBatch, cache: KVCache) -> torch.Tensor:
        """Writes the KV of all T tokens and returns the last hidden states of `batch.logit_rows`: [L, H], normed."""
        step = last_step = self._step(batch, self.heads_for(cache))
        if batch.logit_rows is not None:
            last_step = replace(step, kept_rows=batch.logit_rows, kept_lora=batch.logit_lora)
        residual = self._embedding(batch)
        x = self._first_norm.apply(residual)
        last = self._blocks[-1]
        for block, keys, values in zip(self._blocks, cache.keys, cache.values, strict=True):
            x, residual = block(x, residual, last_step if block is last else step, (keys, values))
            self.between_layers()
        return x

    def move(self, cache: KVCache, sources: torch.Tensor, targets: torch.Tensor, distances: torch.Tensor) -> None:
        """Copies KV between slots, as if the tokens stood so many positions further back. All [N] int64."""
        for first in range(0, len(sources), _MOST_MOVES):
            part = slice(first, first + _MOST_MOVES)
            moves = KvMoves(sources[part], targets[part], self.heads.head_size)
            turns = [turn_by(distances[part], cos, sin) for cos, sin in self._ropes]
            for keys, values, rope in zip(cache.keys, cache.values, self._rope_of_layer, strict=True):
                move_kv(keys, values, moves, turns[rope])

    def logits(self, hidden: torch.Tensor, lora: LoraSegments | None) -> torch.Tensor:
        """hidden: [L, H] from `forward`, lora: its segments. Returns [L, V] float32; on a GPU of the weights' dtype,
        which the kernels that sample convert as they read it."""
        return self._head(hidden, lora)

    def runs_in_graphs(self, slots: Collection[int]) -> bool:
        """Whether a graph can serve a batch of these adapters: not those with an embedding or a head of their own, nor
        with LoRA on experts."""
        sites = (self._embedding.site, self._head.site)
        owned = [site.replaced_rows for site in sites if site is not None] + self._experts_loras
        return not any(slot in by_slot for by_slot in owned for slot in slots)

    def _step(self, batch: ForwardBatch, heads: AttentionHeads) -> ForwardStep:
        """What all layers share: made once, so that none of them asks the batch again."""
        places = batch.query_starts, batch.context_lens, batch.block_tables
        attention = {
            window: AttentionStep(
                *places, self._scale, window, self._softcap, self._plan(batch, window, heads), self._slopes
            )
            for window in self._windows
        }
        ropes = tuple(RopeStep(cos, sin, batch.positions, batch.kv_slots) for cos, sin in self._ropes)
        return ForwardStep(ropes, attention, batch.lora, kept_rows=None, kept_lora=batch.lora)

    def _plan(
        self, batch: ForwardBatch, window: int | None, heads: AttentionHeads
    ) -> AttentionPlan | CascadePlan | None:
        """The attention's work for the layers of one window. Groups share keys that a window would hide from some."""
        lengths = batch.query_starts, batch.context_lens
        if window is None and batch.groups is not None and not self._has_sinks:
            return plan_cascade(*lengths, batch.groups, heads)
        if not self._takes_plans:
            return None
        return plan_attention(*lengths, len(batch.token_ids), heads, window, batch.query_bounds)


def _loras_of_experts(weights: ModelWeights, sites: Sites) -> list[Mapping[int, object]]:
    """Slot -> its adapter's LoRA, of each linear of experts; live."""
    mixtures = [layer.mlp for layer in weights.layers if isinstance(layer.mlp, MixtureWeights)]
    return [sites.experts(name) for mlp in mixtures for name in (*mlp.up_linears, mlp.down_linear)]
