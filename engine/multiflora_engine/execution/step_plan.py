"""Plans a step on the host: from the entries that the scheduler chose to the arrays that every rank is given.

Knows sequences and no device: a plan can be made while the device still computes the step before.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from multiflora_engine.core.moved_spans import KvMove
from multiflora_engine.core.pooling import num_pooled
from multiflora_engine.core.sequence import Sequence
from multiflora_engine.core.step import Scheduled
from multiflora_engine.execution.step_arrays import KNOWN, AdapterRuns, Ints, PromptSlice, StepArrays, adapter_runs

_LOGIT_BYTES = 64 << 20
"""Of one slice of prompt logits, as float32: the logits of a long prompt would take gigabytes."""

_PROBES = (0, 7, 63, 511)
"""Blocks by which sequences are ordered: those that have one of them in common have all before it in common."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """A step's arrays, and what only the planning rank needs to give the results back to sequences.

    Filled by `StepPlanner.plan`; all lists are in the order of the arrays.
    """

    arrays: StepArrays
    num_entries: int
    """Of the scheduled batch; places below count within them."""
    sampling: list[Scheduled]
    """The entries that sample; they have `num_rows` of the R rows each."""
    sampling_places: list[int]
    """The place of each of them."""
    prompt_places: list[int]
    """The place of the entry that each prompt slice belongs to."""
    scored_places: list[int]
    """Places of the entries that want log-probabilities of their prompt, also where this step gives none."""
    pooled_places: list[int]
    """The place of the entry that each of `arrays.pooled_rows` belongs to."""


@dataclass(slots=True)
class WantedRows:
    """What a step's entries want of their hidden states. Filled by the planner, entry by entry, in slot order."""

    logit_counts: list[int] = field(default_factory=list)
    """For each entry, how many of its last tokens want hidden states or logits; their rows are counted below."""
    sample_rows: list[int] = field(default_factory=list)
    """The rows that each sampling entry's next tokens are sampled from."""
    prompt_slices: list[PromptSlice] = field(default_factory=list)
    """As in `StepArrays`."""
    pooled_rows: list[tuple[int, int]] = field(default_factory=list)
    """As in `StepArrays`."""
    is_scored: bool = False
    """Whether any entry wants log-probabilities of its prompt, even if this step's tokens predict none."""


class StepPlanner:
    """block_size: of the KV cache, in tokens. vocab_size: of the logits."""

    def __init__(self, block_size: int, vocab_size: int) -> None:
        self._block_size = block_size
        self._slice_rows = max(1, _LOGIT_BYTES // (4 * vocab_size))
        self._kept_rows: dict[Sequence, int] = {}

    def keep(self, plan: StepPlan) -> None:
        """The device kept the tokens that the plan sampled, one an entry; the next plan may refer to them by row."""
        self._kept_rows = {entry.sequence: row for row, entry in enumerate(plan.sampling)}

    def plan(self, entries: Items[Scheduled]) -> StepPlan:
        """entries: at least one, each sequence at most once."""
        # The arrays' order is not the batch's: the LoRA kernels take one run of rows for each adapter.
        places = slot_order(entries)
        entries = [entries[place] for place in places]
        wanted, end = WantedRows(), 0
        sampling, sampling_places = list[Scheduled](), list[int]()
        prompt_places, scored_places, pooled_places = list[int](), list[int](), list[int]()
        for place, entry in zip(places, entries, strict=True):
            sequence, rows = entry.sequence, entry.num_rows
            count = rows
            if sequence.params.prompt_logprobs is not None and sequence.needs_prompt_logprobs:
                slices = self._prompt_slices(entry, end)
                # The last prompt token predicts no prompt token: a chunk of it alone wants logits for sampling only.
                count = entry.num_tokens if slices else count
                scored_places.append(place)
                prompt_places += [place] * len(slices)
                wanted.is_scored = True
                wanted.prompt_slices += slices
            if sequence.pooling is not None and (pooled := num_pooled(entry)):
                count = max(count, pooled)
                pooled_places.append(place)
                wanted.pooled_rows.append((end, end + count))
            end += count
            wanted.logit_counts.append(count)
            if entry.samples:
                sampling.append(entry)
                sampling_places.append(place)
                wanted.sample_rows += range(end - rows, end)
        arrays = step_arrays(entries, wanted, self._block_size, self._kept_rows)
        return StepPlan(arrays, len(entries), sampling, sampling_places, prompt_places, scored_places, pooled_places)

    def _prompt_slices(self, entry: Scheduled, first_row: int) -> list[PromptSlice]:
        """first_row: the row of the chunk's first token among those that want logits."""
        sequence = entry.sequence
        last = min(entry.start + entry.num_tokens, sequence.num_prompt_tokens - 1)
        next_ids = sequence.prompt_token_ids[entry.start + 1 : last + 1]
        return [
            PromptSlice(
                first_row + first,
                entry.slot,
                next_ids[first : first + self._slice_rows],
                sequence.params.prompt_logprobs or 0,
            )
            for first in range(0, len(next_ids), self._slice_rows)
        ]


def step_arrays(
    entries: Items[Scheduled], wanted: WantedRows, block_size: int, kept_rows: Mapping[Sequence, int]
) -> StepArrays:
    """entries: in slot order. kept_rows: where the device keeps the tokens that it sampled last."""
    counts, starts, slots, token_ids = list[int](), list[int](), list[int | None](), list[int]()
    moves = list[Ints]()
    for entry in entries:
        sequence, start, count = entry.sequence, entry.start, entry.num_tokens
        counts.append(count)
        starts.append(start)
        slots.append(entry.slot)
        # No token there: the step in flight samples it, and the device fills it in (`_token_sources`).
        token_ids += sequence.token_ids[start : start + count] or (0,)
        token_ids += entry.drafts
        if entry.move is not None:
            moves.append(_move(entry.move, sequence, block_size))
    lengths, firsts = np.array(counts, dtype=np.int64), np.array(starts, dtype=np.int64)
    query_starts = np.zeros(len(entries) + 1, dtype=np.int64)
    np.cumsum(lengths, out=query_starts[1:])
    # Which sequence each token belongs to, and from that where it stands in its sequence.
    rows = np.repeat(np.arange(len(entries)), lengths)
    positions = np.arange(query_starts[-1]) + (firsts - query_starts[:-1])[rows]
    context_lens = firsts + lengths
    # No wider than the longest context: what lies beyond is never read, and tables are most of what a decode sends.
    tables = _block_tables(entries, -(-int(context_lens.max()) // block_size))
    blocks, offsets = tables[rows, positions // block_size].astype(np.int64), positions % block_size
    logit_counts, sample_rows = wanted.logit_counts, wanted.sample_rows
    wants_all = logit_counts == counts
    # None instead of the list of all rows, so that a decode step gathers and uploads nothing.
    samples_all = bool(sample_rows) and len(sample_rows) == sum(logit_counts)
    # Base sequences stand first: when the last one is the base's, all are.
    runs = AdapterRuns([len(token_ids)], []) if slots[-1] is None else adapter_runs(slots, counts)
    logit_runs = runs if wants_all else adapter_runs(slots, logit_counts)
    return StepArrays(
        token_ids=np.array(token_ids, dtype=np.int64),
        token_sources=_token_sources(entries, query_starts, kept_rows),
        positions=positions,
        kv_slots=blocks * block_size + offsets,
        query_starts=query_starts.astype(np.int32),
        context_lens=context_lens.astype(np.int32),
        block_tables=tables,
        shortest=min(counts),
        longest=max(counts),
        adapter_runs=runs,
        logit_rows=None if wants_all else _last_rows(query_starts[1:], np.array(logit_counts, dtype=np.int64)),
        logit_runs=logit_runs,
        sample_rows=None if samples_all else np.array(sample_rows, dtype=np.int64),
        sample_runs=logit_runs if samples_all else _sample_runs(entries),
        prompt_slices=wanted.prompt_slices,
        pooled_rows=wanted.pooled_rows,
        is_decode=len(sample_rows) == len(entries) == len(token_ids) and not wanted.is_scored,
        moves=np.concatenate(moves, axis=1) if moves else None,
    )


def _move(move: KvMove, sequence: Sequence, block_size: int) -> Ints:
    """[3, N], as in `StepArrays`."""
    places = np.arange(move.stop - move.start)
    sources, targets = move.offset + places, move.start + places
    blocks = np.array(move.blocks, dtype=np.int64), np.array(sequence.block_table, dtype=np.int64)
    slots = [
        table[at // block_size] * block_size + at % block_size
        for table, at in zip(blocks, (sources, targets), strict=True)
    ]
    return np.stack([*slots, np.full(len(places), move.distance)])


def _token_sources(
    entries: Items[Scheduled], query_starts: Ints, kept_rows: Mapping[Sequence, int]
) -> npt.NDArray[np.int32] | None:
    """Only a decode that was scheduled before its token was collected starts behind its sequence's tokens."""
    sources: npt.NDArray[np.int32] | None = None
    for entry, first in zip(entries, query_starts, strict=False):
        if entry.start == len(entry.sequence.token_ids):
            if sources is None:
                sources = np.full(query_starts[-1], KNOWN, dtype=np.int32)
            sources[first] = kept_rows[entry.sequence]
    return sources


def slot_order(entries: Items[Scheduled]) -> list[int]:
    """Indices of the entries, base first, then by slot; of a slot those with the same leading blocks are neighbours."""
    keys: list[list[int]] = []
    for entry in entries:
        slot, table = entry.slot, entry.sequence.block_table
        key = [-1 if slot is None else slot]
        for probe in _PROBES:
            if probe >= len(table):
                break
            key.append(table[probe])
        keys.append(key)
    return sorted(range(len(entries)), key=keys.__getitem__)


def _sample_runs(entries: Items[Scheduled]) -> AdapterRuns:
    sampling = [entry for entry in entries if entry.samples]
    return adapter_runs([entry.slot for entry in sampling], [entry.num_rows for entry in sampling])


def _block_tables(entries: Items[Scheduled], width: int) -> npt.NDArray[np.int32]:
    tables = np.zeros((len(entries), width), dtype=np.int32)
    for row, entry in zip(tables, entries, strict=True):
        # A table may be longer than what is computed: blocks that the scheduler has already reserved.
        blocks = entry.sequence.block_table[:width]
        row[: len(blocks)] = blocks
    return tables


def _last_rows(ends: Ints, counts: Ints) -> Ints:
    """The last counts[i] rows before ends[i], for all i."""
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    rows: Ints = np.repeat(ends - counts, counts) + offsets
    return rows
