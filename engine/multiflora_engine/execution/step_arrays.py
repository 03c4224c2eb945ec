"""One step's input as plain numpy arrays and numbers, so that it can be sent to other processes.

Knows neither sequences nor devices.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

KNOWN = -1
"""The source of a token that the host knows, see `StepArrays.token_sources`."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class AdapterRuns:
    """Which rows belong to which adapter slot, as `LoraSegments.build` takes it. Rows of the base come first."""

    starts: list[int]
    """[G + 1] run g covers rows starts[g] to starts[g + 1]; starts[0] is the number of the base's rows."""
    slots: list[int]
    """[G] the adapter slot of each run."""


@dataclass(frozen=True, slots=True)
class PromptSlice:
    """Rows whose logits predict prompt tokens that a client wants log-probabilities of; all of one sequence."""

    first: int
    """Of the rows that want logits, the first of this slice; it has as many rows as token_ids."""
    slot: int | None
    """The sequence's adapter slot."""
    token_ids: list[int]
    """The prompt token that follows each row."""
    num_top: int
    """Alternatives that the client wants for each token."""


@dataclass(frozen=True, slots=True)
class StepArrays:
    """All that a rank must know of a step: T tokens of S sequences, L rows that want logits.

    Filled by `StepPlanner.plan`, read by `StepExecutor.execute`; nothing changes it. Sequences stand base first, then
    adapter by adapter.
    """

    token_ids: Ints
    """[T] what the model reads; 0 where token_sources names a row."""
    token_sources: npt.NDArray[np.int32] | None
    """[T] the row of the tokens that the device kept (token_feedback.py) where only the device knows a token, elsewhere
    KNOWN; None when the host knows every token."""
    positions: Ints
    """[T] each token's place in its sequence."""
    kv_slots: Ints
    """[T] where each token's KV goes: block * block_size + offset."""
    query_starts: npt.NDArray[np.int32]
    """[S + 1] sequence s has tokens query_starts[s] to query_starts[s + 1]."""
    context_lens: npt.NDArray[np.int32]
    """[S] tokens of each sequence up to this step's last."""
    block_tables: npt.NDArray[np.int32]
    """[S, B] KV blocks of each sequence; the first ceil(context_len / block_size) entries of a row count."""
    shortest: int
    """The fewest tokens that a sequence has in this step."""
    longest: int
    """The most tokens that a sequence has in this step."""
    adapter_runs: AdapterRuns
    """Of the T tokens."""
    logit_rows: Ints | None
    """[L] ascending, the tokens whose hidden states are wanted; None: all T."""
    logit_runs: AdapterRuns
    """Of the L rows."""
    sample_rows: Ints | None
    """[R] which of the L rows the next tokens are sampled from; None: all L."""
    sample_runs: AdapterRuns
    """Of the R rows."""
    prompt_slices: list[PromptSlice]
    """In the sequences' order, each small enough for its logits to fit into memory."""
    pooled_rows: list[tuple[int, int]]
    """[first, end) of the L rows whose hidden states are summed, one for each sequence that pools in this step."""
    is_decode: bool
    """Whether each sequence has one token that the next is sampled from, and nothing else is asked of the step."""
    moves: Ints | None = None
    """[3, N] KV that is copied before anything is computed: from these slots, to these, turned by so many positions."""


def adapter_runs(slots: Items[int | None], counts: Items[int]) -> AdapterRuns:
    """slots: the adapter of each run of `counts` rows, base (None) first, equal slots adjacent."""
    if not slots or slots[-1] is None:
        return AdapterRuns([sum(counts)], [])
    starts, found = [0], list[int]()
    for slot, count in zip(slots, counts, strict=True):
        if slot is None:
            starts[0] += count
        elif count and found and found[-1] == slot:
            starts[-1] += count
        elif count:
            found.append(slot)
            starts.append(starts[-1] + count)
    return AdapterRuns(starts, found)
