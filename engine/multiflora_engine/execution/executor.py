"""Executes a step's arrays on one device: upload, forward pass, logits. Owns decoder, KV cache and decode graphs.

Knows neither sequences nor what is sampled how: each rank of a group executes the same arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from multiflora_engine.core.forward_batch import ForwardBatch
from multiflora_engine.core.kv_cache import KVCache
from multiflora_engine.core.rank_group import Incoming
from multiflora_engine.core.transfers import Readback, Staging
from multiflora_engine.execution.graphs.decode_graphs import DecodeGraphs
from multiflora_engine.execution.step_arrays import AdapterRuns, StepArrays, adapter_runs
from multiflora_engine.execution.token_feedback import TokenFeedback
from multiflora_engine.models.decoder import Decoder
from multiflora_engine.sampling.sampler import PromptLogprobs
from multiflora_kernels.attention.cascade import CPU_COSTS, GPU_COSTS, shared_groups
from multiflora_kernels.attention.plan import QueryBounds
from multiflora_kernels.lora.batched_lora import LoraSegments

ScorePrompt = Callable[[torch.Tensor, list[int], int], PromptLogprobs]
"""(logits, the tokens that they predict, alternatives): see `Sampler.prompt_logprobs`."""


@dataclass(frozen=True, slots=True)
class StepResults:
    """What a step computed, on the device or on its way from there. Filled by the executor, in the arrays' order."""

    logits: torch.Tensor | None
    """[R, V] of the rows that sample; None when no row does."""
    prompts: list[PromptLogprobs]
    """One for each prompt slice."""
    pooled: list[Readback]
    """[H] float32, one for each of `pooled_rows`."""


@dataclass(frozen=True, slots=True)
class BegunStep:
    """A step whose layers have their work, or all of them that are here. Filled by `StepExecutor.begin`."""

    arrays: StepArrays
    hidden: torch.Tensor | Incoming
    """As of `Decoder.begin`, or a graph's."""
    logit_lora: LoraSegments | None
    """Of its rows."""
    num_rows: int | None = None
    """Of a graph's rows, how many mean something; None: all of them do."""


class StepExecutor:
    """feedback: the tokens of the last step, which the caller fills once it has sampled. graphs: None for a device that
    runs decode steps kernel by kernel."""

    def __init__(
        self,
        decoder: Decoder,
        cache: KVCache,
        staging: Staging,
        feedback: TokenFeedback,
        score_prompt: ScorePrompt,
        graphs: DecodeGraphs | None = None,
    ) -> None:
        self.feedback = feedback
        self._decoder = decoder
        self._cache = cache
        self._heads = decoder.heads_for(cache)
        self._staging = staging
        self._score_prompt = score_prompt
        self._graphs = graphs
        self._groups_eagerly = staging.is_on_host  # on a GPU only graphs have groups
        self._costs = CPU_COSTS if staging.is_on_host else GPU_COSTS

    def begin(self, arrays: StepArrays) -> BegunStep:
        """Writes the KV of all tokens. Waits for nothing that the device does."""
        self._move(arrays)
        if self._graphs is not None and self._fits_graph(self._graphs, arrays):
            replayed = self._graphs.run(arrays, self._groups(arrays))
            if replayed is not None:
                num_rows = len(arrays.context_lens if arrays.logit_rows is None else arrays.logit_rows)
                return BegunStep(arrays, *replayed, num_rows)
        return self._passed(arrays, self.build(arrays))

    def build(self, arrays: StepArrays) -> ForwardBatch:
        """The pass's input, on the device; nothing is computed."""
        groups = self._groups(arrays) if self._groups_eagerly else None
        return forward_batch(arrays, self._staging, self.feedback, groups)

    def begin_built(self, arrays: StepArrays, batch: ForwardBatch) -> BegunStep:
        """`begin` with what `build` made of the arrays; never a graph."""
        self._move(arrays)
        return self._passed(arrays, batch)

    def _passed(self, arrays: StepArrays, batch: ForwardBatch) -> BegunStep:
        return BegunStep(arrays, self._decoder.begin(batch, self._cache), batch.logit_lora)

    def finish(self, step: BegunStep) -> StepResults:
        """In the order in which steps were begun, where there are stages; waits for the others."""
        arrays, hidden = step.arrays, self._decoder.finish(step.hidden)
        if not self._decoder.has_ends:
            return StepResults(None, [], [])
        prompts = self._prompts(arrays, hidden) if arrays.prompt_slices else []
        pooled = [Readback([hidden[first:end].float().sum(0)]) for first, end in arrays.pooled_rows]
        return StepResults(self._logits(step, hidden), prompts, pooled)

    def _move(self, arrays: StepArrays) -> None:
        if arrays.moves is not None:
            self._decoder.move(self._cache, *self._staging.upload_one(arrays.moves))

    def _fits_graph(self, graphs: DecodeGraphs, arrays: StepArrays) -> bool:
        slots = arrays.adapter_runs.slots
        return graphs.fits(arrays) and self._decoder.runs_in_graphs(slots)

    def _groups(self, arrays: StepArrays) -> npt.NDArray[np.int32] | None:
        """Found on the host, because a graph with them is another one than without. None: each for itself."""
        if not arrays.is_decode:
            return None
        return shared_groups(arrays.block_tables, arrays.context_lens, self._cache.block_size, self._heads, self._costs)

    def _logits(self, step: BegunStep, hidden: torch.Tensor) -> torch.Tensor | None:
        """hidden: [L, H] as the batch wants logits; a graph's may have more rows."""
        arrays = step.arrays
        if arrays.sample_rows is None:
            return self._decoder.logits(hidden, step.logit_lora)[: step.num_rows]
        if not len(arrays.sample_rows):
            return None
        rows = hidden[self._staging.upload_one(arrays.sample_rows)]
        return self._decoder.logits(rows, lora_segments(arrays.sample_runs, self._staging))

    def _prompts(self, arrays: StepArrays, hidden: torch.Tensor) -> list[PromptLogprobs]:
        prompts: list[PromptLogprobs] = []
        for part in arrays.prompt_slices:
            rows = hidden[part.first : part.first + len(part.token_ids)]
            lora = lora_segments(adapter_runs([part.slot], [len(rows)]), self._staging)
            logits = self._decoder.logits(rows, lora)
            prompts.append(self._score_prompt(logits, part.token_ids, part.num_top))
        return prompts


def forward_batch(
    arrays: StepArrays, staging: Staging, feedback: TokenFeedback, groups: npt.NDArray[np.int32] | None = None
) -> ForwardBatch:
    """The step's input on the device; its memory is its own. groups: see `ForwardBatch.groups`."""
    host: list[npt.NDArray[Any]] = [
        arrays.token_ids,
        arrays.positions,
        arrays.kv_slots,
        arrays.query_starts,
        arrays.context_lens,
        arrays.block_tables,
    ]
    if arrays.token_sources is not None:
        host.append(arrays.token_sources)
    if arrays.logit_rows is not None:
        host.append(arrays.logit_rows)
    if groups is not None:
        host.append(groups)
    token_ids, positions, kv_slots, query_starts, context_lens, block_tables, *rest = staging.upload(host)
    if arrays.token_sources is not None:
        token_ids = feedback.resolve(token_ids, rest.pop(0))
    lora = lora_segments(arrays.adapter_runs, staging) if arrays.adapter_runs.slots else None
    return ForwardBatch(
        token_ids=token_ids,
        positions=positions,
        kv_slots=kv_slots,
        query_starts=query_starts,
        context_lens=context_lens,
        block_tables=block_tables,
        query_bounds=QueryBounds(arrays.shortest, arrays.longest),
        lora=lora,
        logit_rows=None if arrays.logit_rows is None else rest.pop(0),
        logit_lora=lora if arrays.logit_rows is None else lora_segments(arrays.logit_runs, staging),
        groups=None if groups is None else rest.pop(0),
    )


def lora_segments(runs: AdapterRuns, staging: Staging) -> LoraSegments | None:
    """None when every row is the base's."""
    if not runs.slots:
        return None
    return LoraSegments.build(runs.starts, runs.slots, None if staging.is_on_host else staging.upload_one)
