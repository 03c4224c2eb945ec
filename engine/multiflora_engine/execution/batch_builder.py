"""One step's input as the model sees it, and how it is made from what the scheduler chose.

Knows no model and no scheduling policy.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from multiflora_engine.core.forward_batch import ForwardBatch
from multiflora_engine.core.step import Scheduled
from multiflora_engine.core.transfers import Staging
from multiflora_engine.execution.token_feedback import TokenFeedback
from multiflora_kernels.attention.plan import QueryBounds
from multiflora_kernels.lora.batched_lora import LoraSegments

_PROBES = (0, 7, 63, 511)
"""Blocks by which sequences are ordered: those that have one of them in common have all before it in common."""


def slot_order(entries: Items[Scheduled]) -> list[int]:
    """Indices of the entries, base first, then by slot; of a slot those with the same leading blocks are neighbours."""
    return sorted(range(len(entries)), key=[_place(entry) for entry in entries].__getitem__)


def _place(entry: Scheduled) -> tuple[int, ...]:
    slot, table = entry.sequence.adapter_slot, entry.sequence.block_table
    return (-1 if slot is None else slot, *(table[i] for i in _PROBES if i < len(table)))


@dataclass(frozen=True)
class StepArrays:
    """What `ForwardBatch` says of tokens and sequences, on the host; types as there.

    token_sources: [T] int32, where the device finds a token that the host does not know (see token_feedback.py), or
    None when the host knows all. slots, counts, logit_counts: each sequence's adapter slot, tokens and wanted logits.
    """

    token_ids: npt.NDArray[np.int64]
    token_sources: npt.NDArray[np.int32] | None
    positions: npt.NDArray[np.int64]
    kv_slots: npt.NDArray[np.int64]
    query_starts: npt.NDArray[np.int32]
    context_lens: npt.NDArray[np.int32]
    block_tables: npt.NDArray[np.int32]
    slots: list[int | None]
    counts: list[int]
    logit_counts: list[int]

    @property
    def logit_rows(self) -> npt.NDArray[np.int64] | None:
        """The rows whose logits are wanted; None: all."""
        if self.logit_counts == self.counts:
            return None
        return _last_rows(self.query_starts[1:].astype(np.int64), np.array(self.logit_counts, dtype=np.int64))


def step_arrays(
    entries: Items[Scheduled],
    logit_counts: list[int],
    block_size: int,
    sources: npt.NDArray[np.int32] | None = None,
) -> StepArrays:
    """entries: in slot order. logit_counts: for each entry, how many of its last tokens want logits.

    sources: for each entry, where its first token is found, or -1; see `StepArrays.token_sources`.
    """
    counts = np.array([entry.num_tokens for entry in entries], dtype=np.int64)
    starts = np.array([entry.start for entry in entries], dtype=np.int64)
    query_starts = np.zeros(len(entries) + 1, dtype=np.int64)
    np.cumsum(counts, out=query_starts[1:])
    rows = np.repeat(np.arange(len(entries)), counts)
    positions = np.arange(query_starts[-1]) + (starts - query_starts[:-1])[rows]
    context_lens = starts + counts
    tables = _block_tables(entries, -(-int(context_lens.max()) // block_size))
    return StepArrays(
        token_ids=_token_ids(entries, int(query_starts[-1])),
        token_sources=_token_sources(sources, query_starts),
        positions=positions,
        kv_slots=tables[rows, positions // block_size].astype(np.int64) * block_size + positions % block_size,
        query_starts=query_starts.astype(np.int32),
        context_lens=context_lens.astype(np.int32),
        block_tables=tables,
        slots=[entry.sequence.adapter_slot for entry in entries],
        counts=counts.tolist(),
        logit_counts=logit_counts,
    )


def forward_batch(arrays: StepArrays, staging: Staging, feedback: TokenFeedback) -> ForwardBatch:
    """The step's input on the device; its memory is its own."""
    optional = [array for array in (arrays.token_sources, arrays.logit_rows) if array is not None]
    token_ids, positions, kv_slots, query_starts, context_lens, block_tables, *rest = staging.upload(
        [
            arrays.token_ids,
            arrays.positions,
            arrays.kv_slots,
            arrays.query_starts,
            arrays.context_lens,
            arrays.block_tables,
            *optional,
        ]
    )
    if arrays.token_sources is not None:
        token_ids = feedback.resolve(token_ids, rest.pop(0))
    return ForwardBatch(
        token_ids=token_ids,
        positions=positions,
        kv_slots=kv_slots,
        query_starts=query_starts,
        context_lens=context_lens,
        block_tables=block_tables,
        query_bounds=QueryBounds(min(arrays.counts), max(arrays.counts)),
        lora=lora_segments(arrays.slots, arrays.counts, staging),
        logit_rows=rest.pop() if rest else None,
        logit_lora=lora_segments(arrays.slots, arrays.logit_counts, staging),
    )


def lora_segments(slots: Items[int | None], counts: Items[int], staging: Staging) -> LoraSegments | None:
    """slots: the adapter of each run of `counts` rows, base (None) first, equal slots adjacent. None: no adapter."""
    starts, segments = segment_runs(slots, counts)
    upload = None if staging.is_on_host else staging.upload_one
    return LoraSegments.build(starts, segments, upload) if segments else None


def segment_runs(slots: Items[int | None], counts: Items[int]) -> tuple[list[int], list[int]]:
    """(starts, slots) as `LoraSegments.build` takes them."""
    num_base = sum(count for slot, count in zip(slots, counts, strict=True) if slot is None)
    starts, segments = [num_base], list[int]()
    for slot, count in zip(slots, counts, strict=True):
        if slot is None or not count:
            continue
        if segments and segments[-1] == slot:
            starts[-1] += count
        else:
            segments.append(slot)
            starts.append(starts[-1] + count)
    return starts, segments


def _token_ids(entries: Items[Scheduled], total: int) -> npt.NDArray[np.int64]:
    """0 for a token that the host does not know."""
    chunks = (entry.sequence.token_ids[entry.start : entry.start + entry.num_tokens] or (0,) for entry in entries)
    return np.fromiter(chain.from_iterable(chunks), np.int64, total)


def _token_sources(
    sources: npt.NDArray[np.int32] | None, query_starts: npt.NDArray[np.int64]
) -> npt.NDArray[np.int32] | None:
    if sources is None or (sources < 0).all():
        return None
    spread = np.full(query_starts[-1], -1, dtype=np.int32)
    spread[query_starts[:-1]] = sources
    return spread


def _block_tables(entries: Items[Scheduled], width: int) -> npt.NDArray[np.int32]:
    tables = np.zeros((len(entries), width), dtype=np.int32)
    for row, entry in zip(tables, entries, strict=True):
        blocks = entry.sequence.block_table[:width]
        row[: len(blocks)] = blocks
    return tables


def _last_rows(ends: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The last counts[i] rows before ends[i], for all i."""
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    rows: npt.NDArray[np.int64] = np.repeat(ends - counts, counts) + offsets
    return rows
