"""Runs scheduled batches on the device: builds the forward batch, computes, samples. Owns KV cache and decoder.

Knows nothing of queues, blocks' owners or text.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import numpy as np
import torch

from multiflora_adapters.slots import SlotPool
from multiflora_adapters.zero_adapter import zero_adapter
from multiflora_engine.core.forward_batch import ForwardBatch
from multiflora_engine.core.pooling import num_pooled
from multiflora_engine.core.step import DeviceLost, Scheduled, ScheduledBatch
from multiflora_engine.core.transfers import Readback, Staging
from multiflora_engine.execution.batch_builder import forward_batch, lora_segments, slot_order, step_arrays
from multiflora_engine.execution.decode_graphs import Capture, DecodeGraphs, graph_sizes
from multiflora_engine.execution.device import use_threads
from multiflora_engine.execution.dummy_batch import dummy_batch
from multiflora_engine.execution.kv_memory import allocate_kv_cache, size_kv_cache
from multiflora_engine.execution.memory_profile import step_bytes
from multiflora_engine.execution.pending_step import PendingStep
from multiflora_engine.execution.sampler_warm_up import warm_up_sampler
from multiflora_engine.execution.token_feedback import TokenFeedback
from multiflora_engine.models.config import ModelConfig
from multiflora_engine.models.decoder import Decoder
from multiflora_engine.models.rotary import rotary_tables
from multiflora_engine.models.weights import ModelWeights
from multiflora_engine.protocol.config import EngineConfig
from multiflora_engine.sampling.sampler import PromptLogprobs, SampledStep, Sampler
from multiflora_kernels.attention.cascade import shared_groups

_LOGIT_BYTES = 64 << 20
_PROBE_TOKENS = 16
_MANY_TOKENS = 64
_WARM_UP_RANK = 1


class DeviceRunner:
    """One model on one device (the engine's ModelRunner).

    Raises ModelError when the KV cache that the configuration asks for does not fit. Create it after the pool, so that
    what is left of the device's memory is known. capture: how the device records decode steps; None: it does not.
    """

    def __init__(
        self,
        config: EngineConfig,
        model: ModelConfig,
        weights: ModelWeights,
        pool: SlotPool,
        sampler: Sampler,
        capture: Capture | None = None,
    ) -> None:
        use_threads(config.num_threads)
        self._model = model
        self._weights = weights
        self._sampler = sampler
        self._pool = pool
        device = weights.device
        measured = device.type == "cuda" and config.kv_cache_memory is None
        spare = step_bytes(config, model, weights) if measured else 0
        size = size_kv_cache(config, model, weights.dtype, device, spare)
        self.max_model_len = size.max_model_len
        self._cache = allocate_kv_cache(model, size.num_blocks, config.block_size, weights.dtype, device)
        rope = rotary_tables(model.rope, size.max_model_len, device)
        self._decoder = Decoder(model, weights, rope, pool.site)
        self._staging = Staging(device)
        self._feedback = TokenFeedback(config.max_num_seqs, device)
        self._graphs = None if capture is None else self._make_graphs(capture, config)

    def _make_graphs(self, capture: Capture, config: EngineConfig) -> DecodeGraphs:
        return DecodeGraphs(
            capture,
            self._hidden,
            self._staging,
            self._feedback,
            lambda: self._pool.layout,
            sizes=graph_sizes(config.max_num_seqs),
            max_blocks=-(-self.max_model_len // config.block_size),
            max_segments=self._pool.num_slots,
            device=self._weights.device,
        )

    @property
    def runs_ahead(self) -> bool:
        return self._weights.device.type == "cuda"

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
    def launch(self, batch: ScheduledBatch) -> PendingStep:
        """Writes the KV of all scheduled tokens and samples. Raises DeviceLost."""
        try:
            return self._launch(batch)
        except torch.AcceleratorError as error:
            raise DeviceLost(str(error)) from error

    def _launch(self, batch: ScheduledBatch) -> PendingStep:
        order = slot_order(batch.entries)
        entries = [batch.entries[i] for i in order]
        counts = [_num_logits(entry) for entry in entries]
        self._sampler.prepare([entry.sequence for entry in entries if entry.samples])
        arrays = step_arrays(entries, counts, self.block_size, self._feedback.sources(entries))
        if self._graphs is not None and _is_decode(entries) and self._graphs.fits(len(entries)):
            groups = shared_groups(arrays.block_tables, arrays.context_lens, self.block_size, self._decoder.heads)
            hidden, lora = self._graphs.run(arrays, groups)
            logits = self._decoder.logits(hidden, lora)[: len(entries)]
            nothing = [None] * len(entries)
            return PendingStep(order, list(range(len(entries))), self._sample(logits, entries), nothing, nothing)
        step = forward_batch(arrays, self._staging, self._feedback)
        hidden = self._decoder.forward(step, self._cache)
        ends = list(accumulate(counts))
        prompts = [
            self._prompt_logprobs(entry, hidden[end - count : end])
            for entry, count, end in zip(entries, counts, ends, strict=True)
        ]
        pooled = [
            Readback([hidden[end - count : end].float().sum(0)]) if num_pooled(entry) else None
            for entry, count, end in zip(entries, counts, ends, strict=True)
        ]
        sampling = [i for i, entry in enumerate(entries) if entry.samples]
        rows = [ends[i] - 1 for i in sampling]
        samples: SampledStep | None = None
        if sampling:
            chosen = [entries[i] for i in sampling]
            samples = self._sample(self._last_logits(hidden, rows, chosen, step), chosen)
        return PendingStep(order, sampling, samples, prompts, pooled)

    @torch.inference_mode()
    def probe(self, slot: int) -> float:
        """max |logits of the adapter in `slot` - logits of the base| over a fixed prompt; live KV stays untouched."""
        base, adapted = self._run_apart([None, slot], _PROBE_TOKENS).float().chunk(2)
        return float((adapted - base).abs().max())

    @torch.inference_mode()
    def warm_up(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Small steps, and the graphs: libraries load, native code and kernels compile before a request comes.

        progress(done, total): graphs.
        """
        for tokens in (1, _PROBE_TOKENS):
            logits = self._run_apart([None], tokens)
        if self.runs_ahead:
            warm_up_sampler(self._sampler, logits)
            self._compile_for_adapters()
        if self._graphs is not None:
            self._graphs.capture_all(progress)

    def _compile_for_adapters(self) -> None:
        """Kernels of chunks with few and with many tokens of an adapter; those of decode steps come with the graphs."""
        layers = range(self._model.num_layers)
        sites = [site for layer in layers for site in self._model.layer_sites(layer)]
        slot = self._pool.put(zero_adapter(sites, _WARM_UP_RANK, self._weights.dtype))
        assert slot is not None, "nobody has been given a slot yet"
        for tokens in (_PROBE_TOKENS, _MANY_TOKENS):
            self._run_apart([None, slot], tokens)
        self._pool.remove(slot)

    def _hidden(self, batch: ForwardBatch) -> torch.Tensor:
        return self._decoder.forward(batch, self._cache)

    def _last_logits(
        self, hidden: torch.Tensor, rows: list[int], entries: list[Scheduled], batch: ForwardBatch
    ) -> torch.Tensor:
        """hidden: [L, H] as the batch wants logits; rows: those that sample, one for each of the entries."""
        lora = batch.logit_lora
        if len(rows) < len(hidden):
            hidden = hidden[self._staging.upload_one(np.array(rows))]
            slots = [entry.sequence.adapter_slot for entry in entries]
            lora = lora_segments(slots, [1] * len(rows), self._staging)
        return self._decoder.logits(hidden, lora)

    def _sample(self, logits: torch.Tensor, entries: list[Scheduled]) -> SampledStep:
        sequences = [entry.sequence for entry in entries]
        samples = self._sampler.launch(logits, sequences, [entry.num_output_tokens for entry in entries])
        self._feedback.keep(sequences, samples.tokens)
        return samples

    def _prompt_logprobs(self, entry: Scheduled, hidden: torch.Tensor) -> list[PromptLogprobs] | None:
        """In slices: the logits of a long prompt would take gigabytes."""
        sequence = entry.sequence
        if not sequence.needs_prompt_logprobs:
            return None
        count = _num_prompt_logits(entry)
        next_ids = sequence.prompt_token_ids[entry.start + 1 : entry.start + 1 + count]
        step = max(1, _LOGIT_BYTES // (4 * self._model.vocab_size))
        result: list[PromptLogprobs] = []
        for first in range(0, count, step):
            rows = hidden[first : min(first + step, count)]
            lora = lora_segments([sequence.adapter_slot], [len(rows)], self._staging)
            ids = next_ids[first : first + step]
            logits = self._decoder.logits(rows, lora)
            result.append(self._sampler.prompt_logprobs(logits, ids, sequence.params.prompt_logprobs or 0))
        return result

    def _run_apart(self, slots: list[int | None], tokens: int) -> torch.Tensor:
        """All logits of a fixed prompt under each of `slots` (base first), on a cache of their own: [S * tokens, V]."""
        tokens, device = min(tokens, self.max_model_len), self._weights.device
        batch, blocks = dummy_batch(slots, tokens, self.block_size, self._model.vocab_size, device, tokens)
        cache = allocate_kv_cache(self._model, blocks, self.block_size, self._weights.dtype, device)
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


def _is_decode(entries: list[Scheduled]) -> bool:
    """Whether each entry is one token whose logits yield the next, and nothing else is asked of the step."""
    return all(e.num_tokens == 1 and e.samples and not e.sequence.needs_prompt_logprobs for e in entries)
