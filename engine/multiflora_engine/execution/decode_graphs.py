"""Decode steps as captured graphs: one for each size of batch, with and without adapters, with and without groups of
sequences that share leading blocks, replayed on new contents.

Owns the static memory that the graphs read. Knows neither what is captured nor how a device captures it.

A graph's kernels find everything at the addresses they were captured with, so each step's arrays are copied there; rows
that only fill up a size belong to no sequence, no adapter and no KV slot. An adapter that brings tensors into use which
the graphs do not know (see `SlotPool.layout`) asks for graphs of its own. They are captured in idle moments, so that no
other request waits for that: until then, steps with adapters run kernel by kernel.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from multiflora_engine.core.forward_batch import ForwardBatch
from multiflora_engine.core.transfers import ALIGNMENT, Staging
from multiflora_engine.execution.device_tables import DeviceTables
from multiflora_engine.execution.step_arrays import KNOWN, AdapterRuns, StepArrays
from multiflora_engine.execution.token_feedback import TokenFeedback
from multiflora_kernels.attention.plan import QueryBounds
from multiflora_kernels.lora.batched_lora import LoraSegments
from multiflora_kernels.lora.tiles import fill_table, table_entries

_EXACT_SIZES = (1, 2, 4)
"""Below the first step of eight: filled up to it, these batches would multiply their rows."""

_SIZE_STEP = 8
_LARGE_STEP = 16
_LARGE = 128
LEAST_GROUPED = 8
"""Smaller batches read too little twice for a graph of their own to pay."""

_PATIENCE = 5.0
"""Seconds that steps do without a graph where no moment is idle, and between two that are captured then: each holds up
one step by about two."""

_MAX_LAYOUTS = 4
"""Sets of graphs that are kept, that without adapters included: adapters that touch rare sites come and go."""


@dataclass(frozen=True)
class Graph:
    """Captured work. Filled by a `Capture`."""

    replay: Callable[[], None]
    """Runs the work once more."""
    output: torch.Tensor
    """What the work fills, the same tensor each time."""


class Capture(Protocol):
    """How a device records work; see cuda_graphs.py."""

    def __call__(self, work: Callable[[], torch.Tensor]) -> Graph: ...


def graph_sizes(max_num_seqs: int) -> list[int]:
    """Numbers of sequences that get a graph, ascending; the last is max_num_seqs, the gaps cost at most seven rows (15
    above 128)."""
    sizes = [*_EXACT_SIZES, *range(_SIZE_STEP, _LARGE, _SIZE_STEP), *range(_LARGE, max_num_seqs, _LARGE_STEP)]
    return [*(size for size in sizes if size < max_num_seqs), max_num_seqs]


@dataclass(frozen=True)
class _Inputs:
    """Views of the static memory for one size. Filled by `DecodeGraphs._inputs`."""

    batch: ForwardBatch
    token_sources: torch.Tensor
    """[size] int32, see `StepArrays.token_sources`; KNOWN for rows that only fill up."""


@dataclass(frozen=True)
class _Form:
    """What a graph is captured for, within a layout of the adapters' tensors."""

    size: int
    has_lora: bool
    has_groups: bool


@dataclass(frozen=True)
class _Captured:
    """One graph and what its output must be read with. Filled by `DecodeGraphs._captured`."""

    graph: Graph
    lora: LoraSegments | None
    """The segments that the graph reads, of all its rows; logits of its output are computed with the same."""


class DecodeGraphs:
    """forward: hidden states [S, H] of a batch in which each sequence has one token. layout: of the adapters' tensors.

    A graph keeps its output for good, so that is hidden states: those of a hundred graphs are small, their logits would
    take gigabytes.

    max_blocks: width of the block tables. max_segments: adapters that a batch can have.
    """

    def __init__(
        self,
        capture: Capture,
        forward: Callable[[ForwardBatch], torch.Tensor],
        staging: Staging,
        feedback: TokenFeedback,
        layout: Callable[[], Hashable],
        *,
        sizes: list[int],
        max_blocks: int,
        max_segments: int,
        device: torch.device,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capture = capture
        self._clock = clock
        self._forward = forward
        self._staging = staging
        self._feedback = feedback
        self._layout = layout
        self._sizes = sizes
        self._max_segments = max_segments
        self._tables = DeviceTables(sizes[-1], max_blocks, device)
        self._memory = torch.zeros(_num_bytes(sizes[-1], max_segments), dtype=torch.uint8, device=device)
        self._graphs: dict[Hashable | None, dict[_Form, _Captured]] = {}
        # Forms that steps have done without, and since when.
        self._wanted: dict[_Form, float] = {}
        self._captured_at = clock()

    def fits(self, num_sequences: int) -> bool:
        return num_sequences <= self._sizes[-1]

    def run(
        self, arrays: StepArrays, groups: npt.NDArray[np.int32] | None = None
    ) -> tuple[torch.Tensor, LoraSegments | None] | None:
        """Hidden states of a decode step, rows past S mean nothing, and the segments of all these rows; both
        good until the next call. None where the graph is still to be captured.

        groups: [3, S], see `ForwardBatch.groups`.
        """
        size = self._sizes[bisect_left(self._sizes, len(arrays.context_lens))]
        has_groups = groups is not None and size >= LEAST_GROUPED
        form = _Form(size, bool(arrays.adapter_runs.slots), has_groups)
        captured = self._known(form) or (self._add(form) if self._is_due(form) else None)
        if captured is None:
            return None
        self._upload(size, arrays, groups if has_groups else None)
        captured.graph.replay()
        return captured.graph.output, captured.lora

    def capture_all(self, progress: Callable[[int, int], None]) -> None:
        """Captures every size, the largest first, so that the others find memory that is large enough."""
        forms = [
            _Form(size, has_lora, has_groups)
            for size in reversed(self._sizes)
            for has_lora in (False, True)
            for has_groups in ((False, True) if size >= LEAST_GROUPED else (False,))
        ]
        for done, form in enumerate(forms):
            progress(done, len(forms))
            if self._known(form) is None:
                self._add(form)

    def capture_wanted(self) -> None:
        """One of those that steps have done without, if there is any; for a moment in which no request runs."""
        while self._wanted:
            form, _ = self._wanted.popitem()
            if self._known(form) is None:
                self._add(form)
                return

    def forget(self) -> None:
        """What was captured is captured anew when it is next needed: the model's tensors have other addresses."""
        self._graphs.clear()

    def _known(self, form: _Form) -> _Captured | None:
        return self._graphs.get(self._layout_of(form), {}).get(form)

    def _layout_of(self, form: _Form) -> Hashable | None:
        """None: the base's graphs read no adapter and serve every layout."""
        return self._layout() if form.has_lora else None

    def _is_due(self, form: _Form) -> bool:
        """Whether requests should wait for this graph: the base's are missed by all of them."""
        now = self._clock()
        return not form.has_lora or now - max(self._wanted.setdefault(form, now), self._captured_at) >= _PATIENCE

    def _add(self, form: _Form) -> _Captured:
        layout = self._layout_of(form)
        captured = self._graphs.setdefault(layout, {})[form] = self._captured(form)
        self._wanted.pop(form, None)
        self._captured_at = self._clock()
        # The oldest layout goes, but never the base's graphs or those that were asked for just now.
        if len(self._graphs) > _MAX_LAYOUTS:
            del self._graphs[next(key for key in self._graphs if key not in (None, layout))]
        return captured

    def _captured(self, form: _Form) -> _Captured:
        inputs = self._inputs(form)

        # Tokens that the device alone knows are filled in inside the graph, so the host need not wait for them.
        def work() -> torch.Tensor:
            token_ids = self._feedback.resolve(inputs.batch.token_ids, inputs.token_sources)
            return self._forward(replace(inputs.batch, token_ids=token_ids))

        return _Captured(self._capture(work), inputs.batch.lora)

    def _inputs(self, form: _Form) -> _Inputs:
        """An empty batch in the static memory."""
        size = form.size
        views = self._staging.upload(_padded(size, None, None, self._max_segments), self._memory)
        token_ids, positions, kv_slots, token_sources, query_starts, context_lens, table, groups = views
        # As many segments as adapters can be in a batch of this size: the graph's grid is at its maximum, and a program
        # without a segment ends at once.
        lora = LoraSegments.static(table, size, min(size, self._max_segments)) if form.has_lora else None
        batch = ForwardBatch(
            token_ids=token_ids,
            positions=positions,
            kv_slots=kv_slots,
            query_starts=query_starts,
            context_lens=context_lens,
            block_tables=self._tables.content[:size],
            query_bounds=QueryBounds(1, 1),
            lora=lora,
            logit_rows=None,
            logit_lora=lora,
            groups=groups if form.has_groups else None,
        )
        return _Inputs(batch, token_sources)

    def _upload(self, size: int, arrays: StepArrays, groups: npt.NDArray[np.int32] | None) -> None:
        self._staging.upload(_padded(size, arrays, groups, self._max_segments), self._memory)
        self._tables.fill(arrays.block_tables, self._staging)


def _padded(
    size: int, arrays: StepArrays | None, groups: npt.NDArray[np.int32] | None, max_segments: int
) -> list[npt.NDArray[Any]]:
    """The arrays of a step (None: an empty one) filled up to `size` sequences; always of the same shapes for a size."""
    count = 0 if arrays is None else len(arrays.context_lens)
    runs = AdapterRuns([0], []) if arrays is None else arrays.adapter_runs
    token_ids, positions = np.zeros(size, np.int64), np.zeros(size, np.int64)
    kv_slots, sources = np.full(size, -1, np.int64), np.full(size, KNOWN, np.int32)
    # A row that only fills up starts and ends behind the last token and has no context: attention skips it.
    query_starts, context_lens = np.full(size + 1, count, np.int32), np.zeros(size, np.int32)
    segments = min(size, max_segments)
    table = np.zeros(table_entries(size, segments), np.int32)
    fill_table(table, runs.starts, runs.slots, size)
    if arrays is not None:
        token_ids[:count], positions[:count], kv_slots[:count] = arrays.token_ids, arrays.positions, arrays.kv_slots
        query_starts[: count + 1], context_lens[:count] = arrays.query_starts, arrays.context_lens
        if arrays.token_sources is not None:
            sources[:count] = arrays.token_sources
    padded_groups = np.zeros((3, size), np.int32)
    if groups is not None:
        padded_groups[:, :count] = groups
    return [token_ids, positions, kv_slots, sources, query_starts, context_lens, table, padded_groups]


def _num_bytes(size: int, max_segments: int) -> int:
    """Of the static memory, with room for each array's alignment."""
    return sum(array.nbytes + ALIGNMENT for array in _padded(size, None, None, max_segments))
