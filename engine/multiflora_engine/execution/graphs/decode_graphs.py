"""Steps as captured graphs, replayed on new contents. Decode steps: one for each size of batch, with and without
adapters, with and without groups of sequences that share leading blocks. Steps that read prompts, too, or the tails of
prompts alone: one for each number of tokens, as far as the device is done sooner than a host that launches kernel by
kernel.

Knows neither what is captured nor how a device captures it, nor what the graphs read (graph_inputs.py).

A graph's kernels find everything at the addresses they were captured with, so each step's arrays are copied there. An
adapter that brings tensors into use which the graphs do not know (see `SlotPool.layout`) asks for graphs of its own.
They are captured in idle moments, so that no other request waits for that: until then, steps with adapters run kernel
by kernel.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from multiflora_engine.core.forward_batch import ForwardBatch
from multiflora_engine.core.transfers import Staging
from multiflora_engine.execution.graphs.graph_inputs import GraphInputs, GraphShape
from multiflora_engine.execution.step_arrays import StepArrays
from multiflora_engine.execution.token_feedback import TokenFeedback
from multiflora_kernels.lora.batched_lora import LoraSegments

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


@dataclass(frozen=True)
class _Captured:
    """One graph and what its output must be read with. Filled by `DecodeGraphs._captured`."""

    graph: Graph
    lora: LoraSegments | None
    """The segments of its output's rows, which logits are computed with."""


class DecodeGraphs:
    """forward: hidden states [L, H] that a batch wants. layout: of the adapters' tensors. sizes: sequences of decodes,
    mixed: tokens of other steps, ascending.

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
        mixed: list[int],
        max_blocks: int,
        max_segments: int,
        device: torch.device,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capture = capture
        self._clock = clock
        self._forward = forward
        self._feedback = feedback
        self._layout = layout
        self._sizes = sizes
        self._mixed = mixed
        largest = [self._decode(sizes[-1], has_lora=True), self._mixed_shape(mixed[-1], has_lora=True)]
        self._inputs = GraphInputs(largest, max_blocks, max_segments, staging, device)
        self._graphs: dict[Hashable | None, dict[GraphShape, _Captured]] = {}
        # Forms that steps have done without, and since when.
        self._wanted: dict[GraphShape, float] = {}
        self._captured_at = clock()

    def fits(self, arrays: StepArrays) -> bool:
        """Whether there is, or may be, a graph for such a step."""
        if len(arrays.context_lens) > self._sizes[-1]:
            return False
        if arrays.is_decode:
            return True
        wants_more = arrays.prompt_slices or arrays.pooled_rows or arrays.logit_rows is None
        return not wants_more and len(arrays.token_ids) <= self._mixed[-1]

    def run(
        self, arrays: StepArrays, groups: npt.NDArray[np.int32] | None = None
    ) -> tuple[torch.Tensor, LoraSegments | None] | None:
        """Hidden states of a step that fits, first those of the L rows that it wants, and the segments of all these
        rows; both good until the next call. None where the graph is still to be captured.

        groups: [3, S] of a decode, see `ForwardBatch.groups`.
        """
        form = self._shape(arrays, groups is not None)
        captured = self._known(form) or (self._add(form) if self._is_due(form) else None)
        if captured is None:
            return None
        self._inputs.fill(form, arrays, groups if form.has_groups else None)
        captured.graph.replay()
        return captured.graph.output, captured.lora

    def _shape(self, arrays: StepArrays, has_groups: bool) -> GraphShape:
        has_lora = bool(arrays.adapter_runs.slots)
        if not arrays.is_decode:
            return self._mixed_shape(_at_least(len(arrays.token_ids), self._mixed), has_lora)
        size = _at_least(len(arrays.context_lens), self._sizes)
        return self._decode(size, has_lora, has_groups and size >= LEAST_GROUPED)

    def _decode(self, size: int, has_lora: bool, has_groups: bool = False) -> GraphShape:
        return GraphShape(size, size, is_mixed=False, has_lora=has_lora, has_groups=has_groups)

    def _mixed_shape(self, tokens: int, has_lora: bool) -> GraphShape:
        return GraphShape(tokens, min(tokens, self._sizes[-1]), is_mixed=True, has_lora=has_lora, has_groups=False)

    def capture_all(self, progress: Callable[[int, int], None]) -> None:
        """Captures every size, the largest first, so that the others find memory that is large enough."""
        forms = [self._mixed_shape(tokens, has_lora) for tokens in reversed(self._mixed) for has_lora in (False, True)]
        forms += [
            self._decode(size, has_lora, has_groups)
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

    def _known(self, form: GraphShape) -> _Captured | None:
        return self._graphs.get(self._layout_of(form), {}).get(form)

    def _layout_of(self, form: GraphShape) -> Hashable | None:
        """None: the base's graphs read no adapter and serve every layout."""
        return self._layout() if form.has_lora else None

    def _is_due(self, form: GraphShape) -> bool:
        """Whether requests should wait for this graph: the base's are missed by all of them."""
        now = self._clock()
        return not form.has_lora or now - max(self._wanted.setdefault(form, now), self._captured_at) >= _PATIENCE

    def _add(self, form: GraphShape) -> _Captured:
        layout = self._layout_of(form)
        captured = self._graphs.setdefault(layout, {})[form] = self._captured(form)
        self._wanted.pop(form, None)
        self._captured_at = self._clock()
        # The oldest layout goes, but never the base's graphs or those that were asked for just now.
        if len(self._graphs) > _MAX_LAYOUTS:
            del self._graphs[next(key for key in self._graphs if key not in (None, layout))]
        return captured

    def _captured(self, form: GraphShape) -> _Captured:
        inputs = self._inputs.empty(form)

        # Tokens that the device alone knows are filled in inside the graph, so the host need not wait for them.
        def work() -> torch.Tensor:
            token_ids = self._feedback.resolve(inputs.batch.token_ids, inputs.token_sources)
            return self._forward(replace(inputs.batch, token_ids=token_ids))

        return _Captured(self._capture(work), inputs.batch.logit_lora)


def _at_least(count: int, sizes: list[int]) -> int:
    return sizes[bisect_left(sizes, count)]
