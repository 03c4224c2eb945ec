"""The decoder: embeds tokens, runs them through its layers over a paged KV cache, and makes logits; or what of that a
stage does.

What a layer does is its block's business (blocks/). Knows neither sequences nor sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from multiflora_engine.core.forward_batch import ForwardBatch
from multiflora_engine.core.kv_cache import KVCache
from multiflora_engine.core.rank_group import Incoming, RankGrid, RankGroup
from multiflora_engine.models.blocks.block import ForwardStep
from multiflora_engine.models.blocks.layers import make_blocks
from multiflora_engine.models.blocks.linear import Linear, LivePoolSite, Sites, is_touched
from multiflora_engine.models.blocks.norms import NO_NORM, make_norm, optional_norm
from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.models.weights import EndWeights, ModelWeights
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
        ends = weights.ends
        self.site: LivePoolSite | None = None if sites is None else sites.site(ends.embedding_site)
        self._tokens = ends.embed_tokens
        self._dtype = weights.dtype
        # Rounded as the models round it when they are trained.
        self._scale = torch.tensor(config.form.scales.embedding, dtype=weights.dtype).item()
        self._positions = ends.embed_positions
        self._position_offset = config.form.position_offset
        self._norm = optional_norm(config, ends.embedding_norm)

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

    def __init__(self, config: ModelConfig, weights: EndWeights, sites: Sites | None, ranks: RankGroup | None) -> None:
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


class Ends:
    """Embedding, last norm and head; where there are stages, the first one has them."""

    def __init__(
        self, config: ModelConfig, weights: ModelWeights, sites: Sites | None, shards: RankGroup | None
    ) -> None:
        self.embedding = InputEmbedding(config, weights, sites)
        self.norm = make_norm(config, weights.ends.norm)
        self.head = Head(config, weights.ends, sites, shards)


class Decoder:
    """One model: its embedding, its layers, its head; or one rank's part of it."""

    def __init__(
        self,
        config: ModelConfig,
        weights: ModelWeights,
        ropes: Sequence[RopeTables],
        sites: Sites | None = None,
        ranks: RankGrid | None = None,
    ) -> None:
        """ropes: the tables of the configuration's, in their order. sites: the adapters' pool. ranks: where the
        configuration is one's part of a model, those that compute it together, pass by pass."""
        self.between_layers: Callable[[], None] = _nothing
        """Called after each layer, and while other stages compute theirs, so that the engine can say that it lives
        while a large step takes minutes."""
        shards = None if ranks is None else ranks.shards
        self._stages = None if ranks is None else ranks.stages
        self._is_last = config.stage is None or config.stage.is_last
        self._hidden_size = config.hidden_size
        self._dtype = weights.dtype
        self.heads = AttentionHeads(config.num_heads, config.num_kv_heads, config.head_dim, weights.dtype)
        self._takes_plans = has_kernels(weights.device, self.heads)
        scale = config.form.scales.attention
        self._scale = config.head_dim**-0.5 if scale is None else scale
        self._softcap = config.form.scales.attention_softcap
        slopes = config.form.slopes
        self._slopes = torch.tensor(slopes, dtype=torch.float32, device=weights.device) if slopes else None
        self._rounds = weights.rounds_activations
        self._has_sinks = config.form.modules.sinks is not None
        self._windows = frozenset(config.sliding_windows[layer] for layer in config.layers)
        self._ropes = tuple(ropes)
        self._rope_of_layer = [config.rope_of_layer[layer] for layer in config.layers]
        self._first_norm = make_norm(config, weights.layers[0].input_norm)
        self._own_ends = Ends(config, weights, sites, shards) if config.has_ends else None
        # Between stages goes the residual alone, and who receives it norms it.
        last_norm = NO_NORM if self._stages is not None or self._own_ends is None else self._own_ends.norm
        self._blocks = make_blocks(config, weights, last_norm, sites, shards)

    def heads_for(self, cache: KVCache) -> AttentionHeads:
        """As attention over this cache has them."""
        return replace(self.heads, reads_codes=cache.is_quantised)

    @property
    def has_ends(self) -> bool:
        """Whether it has a head, and what `finish` returns can be given to `logits`."""
        return self._own_ends is not None

    def forward(self, batch: ForwardBatch, cache: KVCache) -> torch.Tensor:
        """Writes the KV of all T tokens and returns the last hidden states of `batch.logit_rows`: [L, H], normed. On a
        stage without a head they are neither."""
        return self.finish(self.begin(batch, cache))

    def all_logits(self, batch: ForwardBatch, cache: KVCache) -> torch.Tensor:
        """A pass with its logits; on a stage without a head they are none."""
        hidden = self.forward(batch, cache)
        return self.logits(hidden, batch.logit_lora) if self.has_ends else hidden

    def begin(self, batch: ForwardBatch, cache: KVCache) -> torch.Tensor | Incoming:
        """The layers that are here: writes their KV of all T tokens. The steps of stages are finished in the order in
        which they were begun; meanwhile as many may be begun as there are stages."""
        residual = self._input(batch)
        x, residual = self._through_layers(residual, batch, cache)
        if self._stages is None:
            return x
        num_rows = len(batch.token_ids if batch.logit_rows is None else batch.logit_rows)
        if self._is_last and not num_rows:
            # The first stage is to hear that the step is done.
            residual = residual.new_zeros(1, self._hidden_size)
        self._stages.send(residual)
        if self._own_ends is None:
            return residual
        return self._stages.receive((max(1, num_rows), self._hidden_size), self._dtype)

    def finish(self, begun: torch.Tensor | Incoming) -> torch.Tensor:
        """begun: by `begin`. Returns what `forward` does; waits for the other stages."""
        if isinstance(begun, torch.Tensor) or self._own_ends is None:
            assert isinstance(begun, torch.Tensor), "a stage without a head awaits nothing more"
            return begun
        return self._own_ends.norm.apply(begun.wait(self.between_layers))

    def _input(self, batch: ForwardBatch) -> torch.Tensor:
        """[T, H]: what the first layer here reads, before its norm."""
        if self._own_ends is not None:
            return self._own_ends.embedding(batch)
        assert self._stages is not None, "another stage has the embedding"
        shape = len(batch.token_ids), self._hidden_size
        return self._stages.receive(shape, self._dtype).wait(self.between_layers)

    def _through_layers(
        self, residual: torch.Tensor, batch: ForwardBatch, cache: KVCache
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """residual: [T, H]. Returns it behind the last layer, normed and as it is; of the model's last layer those of
        `batch.logit_rows`."""
        step = last_step = self._step(batch, self.heads_for(cache))
        if self._is_last and batch.logit_rows is not None:
            last_step = replace(step, kept_rows=batch.logit_rows, kept_lora=batch.logit_lora)
        x = self._first_norm.apply(residual)
        last = self._blocks[-1]
        for block, keys, values in zip(self._blocks, cache.keys, cache.values, strict=True):
            x, residual = block(x, residual, last_step if block is last else step, (keys, values))
            self.between_layers()
        return x, residual

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
        assert self._own_ends is not None, "the first stage makes logits"
        return self._own_ends.head(hidden, lora)

    def runs_in_graphs(self, slots: Collection[int]) -> bool:
        """Whether a graph can serve a batch of these adapters: not those with an embedding or a head of their own."""
        assert self._own_ends is not None, "stages run step by step"
        sites = (self._own_ends.embedding.site, self._own_ends.head.site)
        return not any(site is not None and slot in site.replaced_rows for site in sites for slot in slots)

    def _step(self, batch: ForwardBatch, heads: AttentionHeads) -> ForwardStep:
        """What all layers share: made once, so that none of them asks the batch again."""
        places = batch.query_starts, batch.context_lens, batch.block_tables
        attention = {
            window: AttentionStep(
                *places,
                self._scale,
                window,
                self._softcap,
                self._plan(batch, window, heads),
                self._slopes,
                self._rounds,
                batch.groups if window is None else None,
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
