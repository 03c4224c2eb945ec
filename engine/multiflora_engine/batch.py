"""One step's input as the model sees it, and how it is made from what the scheduler chose.

Knows no model and no scheduling policy.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch

from multiflora_engine.step import Scheduled
from multiflora_kernels.lora import LoraSegments


@dataclass(frozen=True)
class ForwardBatch:
    """T tokens of S sequences, base sequences first, then adapter by adapter, so that each adapter is one segment.

    Filled by `build_batch` (or by whoever runs the model on made-up input); nothing changes it.
    token_ids, positions: [T] int64. kv_slots: [T] int64, block * block_size + offset, where each token's KV goes.
    query_starts: [S+1] int32, token ranges of the sequences. context_lens: [S] int32, tokens up to this step's last.
    block_tables: [S, B] int32, the first ceil(context_len / block_size) entries of a row count.
    lora: which tokens belong to which slot; None when all are the base's.
    logit_rows: [L] int64, ascending, the tokens whose logits are wanted; None: all T. logit_lora: `lora` of these rows.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    kv_slots: torch.Tensor
    query_starts: torch.Tensor
    context_lens: torch.Tensor
    block_tables: torch.Tensor
    lora: LoraSegments | None
    logit_rows: torch.Tensor | None
    logit_lora: LoraSegments | None


def slot_order(entries: Items[Scheduled]) -> list[int]:
    """Indices of the entries, base first, then by slot; stable."""
    slots = [-1 if entry.sequence.adapter_slot is None else entry.sequence.adapter_slot for entry in entries]
    return sorted(range(len(entries)), key=slots.__getitem__)


def build_batch(
    entries: Items[Scheduled], logit_counts: Items[int], block_size: int, device: torch.device
) -> ForwardBatch:
    """entries: in slot order. logit_counts: for each entry, how many of its last tokens want logits."""
    counts = np.array([entry.num_tokens for entry in entries], dtype=np.int64)
    starts = np.array([entry.start for entry in entries], dtype=np.int64)
    query_starts = np.zeros(len(entries) + 1, dtype=np.int64)
    np.cumsum(counts, out=query_starts[1:])
    rows = np.repeat(np.arange(len(entries)), counts)
    positions = np.arange(query_starts[-1]) + (starts - query_starts[:-1])[rows]
    context_lens = starts + counts
    tables = _block_tables(entries, -(-int(context_lens.max()) // block_size))
    kv_slots = tables[rows, positions // block_size].astype(np.int64) * block_size + positions % block_size
    slots = [entry.sequence.adapter_slot for entry in entries]
    wanted = np.array(logit_counts, dtype=np.int64)
    return ForwardBatch(
        token_ids=_to(_token_ids(entries, int(query_starts[-1])), device),
        positions=_to(positions, device),
        kv_slots=_to(kv_slots, device),
        query_starts=_to(query_starts.astype(np.int32), device),
        context_lens=_to(context_lens.astype(np.int32), device),
        block_tables=_to(tables, device),
        lora=lora_segments(slots, counts.tolist(), device),
        logit_rows=None if (wanted == counts).all() else _to(_last_rows(query_starts[1:], wanted), device),
        logit_lora=lora_segments(slots, logit_counts, device),
    )


def lora_segments(slots: Items[int | None], counts: Items[int], device: torch.device) -> LoraSegments | None:
    """slots: the adapter of each run of `counts` rows, base (None) first, equal slots adjacent. None: no adapter."""
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
    return LoraSegments.build(starts, segments, device) if segments else None


def _token_ids(entries: Items[Scheduled], total: int) -> npt.NDArray[np.int64]:
    if total == len(entries):
        return np.fromiter((entry.sequence.token_ids[entry.start] for entry in entries), np.int64, total)
    chunks = (entry.sequence.token_ids[entry.start : entry.start + entry.num_tokens] for entry in entries)
    return np.fromiter(chain.from_iterable(chunks), np.int64, total)


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


def _to(array: npt.NDArray[np.integer], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(array).to(device)
