"""What a graph reads: a step's arrays, filled up to the shape that the graph was captured for, in static memory.

Rows that only fill up belong to no sequence, no adapter and no KV slot. Knows neither graphs nor how they are captured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from multiflora_engine.core.forward_batch import ForwardBatch
from multiflora_engine.core.transfers import ALIGNMENT, Staging
from multiflora_engine.execution.graphs.device_tables import DeviceTables
from multiflora_engine.execution.step_arrays import KNOWN, AdapterRuns, StepArrays
from multiflora_kernels.attention.plan import QueryBounds
from multiflora_kernels.lora.batched_lora import LoraSegments
from multiflora_kernels.lora.tiles import fill_table, table_entries


@dataclass(frozen=True)
class GraphShape:
    """What a graph is captured for, within a layout of the adapters' tensors."""

    tokens: int
    sequences: int
    is_mixed: bool
    """Whether sequences have any number of tokens, and only some rows are wanted; otherwise each has one, which is."""
    has_lora: bool
    has_groups: bool


@dataclass(frozen=True)
class GraphBatch:
    """Views of the static memory for one shape. Filled by `GraphInputs.empty`."""

    batch: ForwardBatch
    token_sources: torch.Tensor
    """[tokens] int32, see `StepArrays.token_sources`; KNOWN for rows that only fill up."""


class GraphInputs:
    """The static memory. max_blocks: width of the block tables. max_segments: adapters that a batch can have."""

    def __init__(
        self, largest: list[GraphShape], max_blocks: int, max_segments: int, staging: Staging, device: torch.device
    ) -> None:
        """largest: of each kind of shape."""
        self._staging = staging
        self._max_segments = max_segments
        self._tables = DeviceTables(max(shape.sequences for shape in largest), max_blocks, device)
        num_bytes = max(
            sum(array.nbytes + ALIGNMENT for array in _padded(shape, None, None, max_segments)) for shape in largest
        )
        self._memory = torch.zeros(num_bytes, dtype=torch.uint8, device=device)

    def empty(self, shape: GraphShape) -> GraphBatch:
        """A batch without tokens."""
        views = self._staging.upload(_padded(shape, None, None, self._max_segments), self._memory)
        token_ids, positions, kv_slots, token_sources, query_starts, context_lens, table, groups, *rows = views
        lora = self._segments(table, shape.tokens) if shape.has_lora else None
        logit_rows, logit_table = rows if shape.is_mixed else (None, table)
        batch = ForwardBatch(
            token_ids=token_ids,
            positions=positions,
            kv_slots=kv_slots,
            query_starts=query_starts,
            context_lens=context_lens,
            block_tables=self._tables.content[: shape.sequences],
            query_bounds=QueryBounds(1, shape.tokens if shape.is_mixed else 1),
            lora=lora,
            logit_rows=logit_rows,
            logit_lora=self._segments(logit_table, shape.sequences) if shape.has_lora else None,
            groups=groups if shape.has_groups else None,
        )
        return GraphBatch(batch, token_sources)

    def fill(self, shape: GraphShape, arrays: StepArrays, groups: npt.NDArray[np.int32] | None) -> None:
        """groups: [3, S], see `ForwardBatch.groups`."""
        self._staging.upload(_padded(shape, arrays, groups, self._max_segments), self._memory)
        self._tables.fill(arrays.block_tables, self._staging)

    def _segments(self, table: torch.Tensor, rows: int) -> LoraSegments:
        """As many as adapters can be in a batch of this size: the graph's grid is at its maximum, and a program without
        a segment ends at once."""
        return LoraSegments.static(table, rows, min(rows, self._max_segments))


def _padded(
    shape: GraphShape, arrays: StepArrays | None, groups: npt.NDArray[np.int32] | None, max_segments: int
) -> list[npt.NDArray[Any]]:
    """The arrays of a step (None: an empty one), filled up; always of the same shapes for a graph's."""
    tokens, sequences = shape.tokens, shape.sequences
    used = 0 if arrays is None else len(arrays.token_ids)
    token_ids, positions = np.zeros(tokens, np.int64), np.zeros(tokens, np.int64)
    kv_slots, sources = np.full(tokens, -1, np.int64), np.full(tokens, KNOWN, np.int32)
    # A sequence that only fills up starts and ends behind the last token and has no context: attention skips it.
    query_starts, context_lens = np.full(sequences + 1, used, np.int32), np.zeros(sequences, np.int32)
    padded_groups = np.zeros((3, sequences), np.int32)
    # What is wanted ascends; rows that only fill up are those of the last token.
    logit_rows = np.full(sequences, tokens - 1, np.int64)
    if arrays is not None:
        count = len(arrays.context_lens)
        token_ids[:used], positions[:used], kv_slots[:used] = arrays.token_ids, arrays.positions, arrays.kv_slots
        query_starts[: count + 1], context_lens[:count] = arrays.query_starts, arrays.context_lens
        if arrays.token_sources is not None:
            sources[:used] = arrays.token_sources
        if groups is not None:
            padded_groups[:, :count] = groups
        if arrays.logit_rows is not None:
            logit_rows[: len(arrays.logit_rows)] = arrays.logit_rows
    runs, logit_runs = (arrays.adapter_runs, arrays.logit_runs) if arrays is not None else (_NO_RUNS, _NO_RUNS)
    table = _table(runs, tokens, max_segments)
    padded: list[npt.NDArray[Any]] = [
        token_ids,
        positions,
        kv_slots,
        sources,
        query_starts,
        context_lens,
        table,
        padded_groups,
    ]
    if shape.is_mixed:
        padded += [logit_rows, _table(logit_runs, sequences, max_segments)]
    return padded


_NO_RUNS = AdapterRuns([0], [])


def _table(runs: AdapterRuns, rows: int, max_segments: int) -> npt.NDArray[np.int32]:
    table = np.zeros(table_entries(rows, min(rows, max_segments)), np.int32)
    fill_table(table, runs.starts, runs.slots, rows)
    return table
