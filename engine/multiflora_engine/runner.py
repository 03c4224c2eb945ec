"""Runs scheduled batches on the device: builds the forward batch, computes, samples. Owns KV cache and decoder.

Knows nothing of queues, blocks' owners or text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from multiflora_adapters.slots import SlotPool
from multiflora_engine.batch import ForwardBatch, build_batch, lora_segments, slot_order
from multiflora_engine.config import EngineConfig
from multiflora_engine.decoder import Decoder
from multiflora_engine.kv_cache import KVCache, allocate_kv_cache, size_kv_cache
from multiflora_engine.machine import use_threads
from multiflora_engine.model_config import ModelConfig
from multiflora_engine.pooling import num_pooled
from multiflora_engine.request import PositionLogprobs
from multiflora_engine.rotary import rotary_tables
from multiflora_engine.sequence import Sequence
from multiflora_engine.step import DeviceLost, SampledToken, Scheduled, ScheduledBatch, StepOutput
from multiflora_engine.weights import ModelWeights

_LOGIT_BYTES = 64 << 20
_PROBE_TOKENS = 16


class Sampler(Protocol):
    """As the runner uses it; see sampler.py."""

    def sample(self, logits: torch.Tensor, sequences: list[Sequence]) -> list[SampledToken]: ...

    def prompt_logprobs(self, logits: torch.Tensor, token_ids: list[int], num_top: int) -> list[PositionLogprobs]: ...


class ModelRunner:
    """One model on one device (the engine's ModelRunner).

    Raises ModelError when the KV cache that the configuration asks for does not fit. Create it after the pool, so that
    what is left of the device's memory is known.
    """

    def __init__(
        self, config: EngineConfig, model: ModelConfig, weights: ModelWeights, pool: SlotPool, sampler: Sampler
    ) -> None:
        use_threads(config.num_threads)
        self._model = model
        self._weights = weights
        self._sampler = sampler
        size = size_kv_cache(config, model, weights.dtype, weights.device)
        self.max_model_len = size.max_model_len
        self._cache = allocate_kv_cache(model, size.num_blocks, config.block_size, weights.dtype, weights.device)
        rope = rotary_tables(model.rope, size.max_model_len, weights.device)
        self._decoder = Decoder(model, weights, rope, pool.site)

    @property
    def num_blocks(self) -> int:
        return self._cache.num_blocks

    @property
    def block_size(self) -> int:
        return self._cache.block_size

    @property
    def kv_bytes(self) -> int:
        return self._cache.num_bytes

    def call_between_layers(self, callback: Callable[[], None]) -> None:
        """A step may take minutes (a large model on few cores); the callback says meanwhile that it goes on."""
        self._decoder.between_layers = callback

    def base_weight(self, site: str) -> torch.Tensor:
        """The base's weight at an adapter's site; see `ModelWeights.base_weight`."""
        return self._weights.base_weight(site)

    @torch.inference_mode()
    def execute(self, batch: ScheduledBatch) -> list[StepOutput]:
        """Writes the KV of all scheduled tokens; one output per entry, in the entries' order. Raises DeviceLost."""
        try:
            return self._execute(batch)
        except torch.AcceleratorError as error:
            raise DeviceLost(str(error)) from error

    def _execute(self, batch: ScheduledBatch) -> list[StepOutput]:
        order = slot_order(batch.entries)
        entries = [batch.entries[i] for i in order]
        counts = [_num_logits(entry) for entry in entries]
        forward_batch = build_batch(entries, counts, self.block_size, self._weights.device)
        hidden = self._decoder.forward(forward_batch, self._cache)
        outputs = self._outputs(entries, counts, hidden, forward_batch)
        ordered: list[StepOutput] = [StepOutput()] * len(order)
        for place, output in zip(order, outputs, strict=True):
            ordered[place] = output
        return ordered

    @torch.inference_mode()
    def probe(self, slot: int) -> float:
        """max |logits of the adapter in `slot` - logits of the base| over a fixed prompt; live KV stays untouched."""
        base, adapted = self._run_apart([None, slot]).chunk(2)
        return float((adapted - base).abs().max())

    @torch.inference_mode()
    def warm_up(self) -> None:
        """One small step: libraries load and native code compiles before the first request comes."""
        self._run_apart([None])

    def _outputs(
        self, entries: list[Scheduled], counts: list[int], hidden: torch.Tensor, batch: ForwardBatch
    ) -> list[StepOutput]:
        """entries: in slot order; hidden: counts[i] rows for each, the last of which samples if the entry does."""
        ends = torch.tensor(counts).cumsum(0).tolist()
        prompts = [
            self._prompt_logprobs(entry, hidden[end - count : end])
            for entry, count, end in zip(entries, counts, ends, strict=True)
        ]
        pooled = [
            hidden[end - count : end].float().sum(0).cpu().numpy() if num_pooled(entry) else None
            for entry, count, end in zip(entries, counts, ends, strict=True)
        ]
        samples = [i for i, entry in enumerate(entries) if entry.samples]
        sampled: dict[int, SampledToken] = {}
        if samples:
            sequences = [entries[i].sequence for i in samples]
            lora = batch.logit_lora
            if len(samples) < len(hidden):
                hidden = hidden[[ends[i] - 1 for i in samples]]
                lora = lora_segments([s.adapter_slot for s in sequences], [1] * len(samples), hidden.device)
            sampled = dict(
                zip(samples, self._sampler.sample(self._decoder.logits(hidden, lora), sequences), strict=True)
            )
        return [
            StepOutput(sampled.get(i), prompt, vector)
            for i, (prompt, vector) in enumerate(zip(prompts, pooled, strict=True))
        ]

    def _prompt_logprobs(self, entry: Scheduled, hidden: torch.Tensor) -> list[PositionLogprobs] | None:
        """In slices: the logits of a long prompt would take gigabytes."""
        sequence = entry.sequence
        if not sequence.needs_prompt_logprobs:
            return None
        count = _num_prompt_logits(entry)
        next_ids = sequence.prompt_token_ids[entry.start + 1 : entry.start + 1 + count]
        step = max(1, _LOGIT_BYTES // (4 * self._model.vocab_size))
        result: list[PositionLogprobs] = []
        for first in range(0, count, step):
            rows = hidden[first : min(first + step, count)]
            lora = lora_segments([sequence.adapter_slot], [len(rows)], rows.device)
            ids = next_ids[first : first + step]
            logits = self._decoder.logits(rows, lora)
            result += self._sampler.prompt_logprobs(logits, ids, sequence.params.prompt_logprobs or 0)
        return result

    def _run_apart(self, slots: list[int | None]) -> torch.Tensor:
        """All logits of a fixed prompt under each of `slots` (base first), on a cache of their own: [S * tokens, V]."""
        tokens = min(_PROBE_TOKENS, self.max_model_len)
        device = self._weights.device
        blocks = -(-tokens // self.block_size)
        tables = torch.arange(blocks * len(slots), dtype=torch.int32, device=device).view(len(slots), blocks)
        positions = torch.arange(tokens, device=device)
        batch = ForwardBatch(
            token_ids=(positions * (self._model.vocab_size // tokens)).repeat(len(slots)),
            positions=positions.repeat(len(slots)),
            kv_slots=(tables[:, positions // self.block_size] * self.block_size + positions % self.block_size)
            .long()
            .view(-1),
            query_starts=torch.arange(len(slots) + 1, dtype=torch.int32, device=device) * tokens,
            context_lens=torch.full((len(slots),), tokens, dtype=torch.int32, device=device),
            block_tables=tables,
            lora=lora_segments(slots, [tokens] * len(slots), device),
            logit_rows=None,
            logit_lora=lora_segments(slots, [tokens] * len(slots), device),
        )
        cache: KVCache = allocate_kv_cache(
            self._model, blocks * len(slots), self.block_size, self._weights.dtype, device
        )
        return self._decoder.logits(self._decoder.forward(batch, cache), batch.logit_lora)


def _num_prompt_logits(entry: Scheduled) -> int:
    """How many prompt tokens the logits of this chunk predict."""
    last = min(entry.start + entry.num_tokens, entry.sequence.num_prompt_tokens - 1)
    return max(0, last - entry.start)


def _num_logits(entry: Scheduled) -> int:
    """How many of the entry's last tokens want logits, or their hidden states themselves."""
    if entry.sequence.needs_prompt_logprobs and _num_prompt_logits(entry):
        return entry.num_tokens
    return max(int(entry.samples), num_pooled(entry))
