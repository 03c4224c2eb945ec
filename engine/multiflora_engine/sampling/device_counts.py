"""Which tokens penalised sequences have seen, kept on the device and counted there by the step that samples them.

So the host need not know a step's tokens to launch the next one, and sends a text's tokens once.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from multiflora_engine.core.sequence import Sequence
from multiflora_engine.sampling.sampling_batch import CountedPenalties, Row, penalty_scalars
from multiflora_kernels.sampling import ops


@dataclass
class _Counted:
    """What a row of the counts holds once the steps that were launched are done."""

    row: int
    length: int
    """Of the output."""
    epoch: int
    """The sequence's: results of steps before it are dropped."""


class DeviceCounts:
    """num_rows: as many sequences as a step can have. It samples one token of each: devices that run ahead verify no
    drafts."""

    def __init__(self, num_rows: int, vocab_size: int) -> None:
        self._shape = (num_rows, vocab_size)
        self._table: Tensor | None = None
        # The sequence whose row was used longest ago comes first.
        self._counted: WeakKeyDictionary[Sequence, _Counted] = WeakKeyDictionary()

    def knows(self, sequence: Sequence, length: int) -> bool:
        """Whether its row counts exactly the output of this length, of which the host may lack the last token."""
        counted = self._counted.get(sequence)
        return counted is not None and (counted.length, counted.epoch) == (length, sequence.epoch)

    def penalties(self, rows: Items[Row], sequences: Items[Sequence]) -> CountedPenalties | None:
        """Of a step that samples one more token of each, and must be launched. Where a row of the counts is not at the
        sequence's length (it is new, was preempted, or a step failed), the host must know all of its output."""
        places = [place for place, row in enumerate(rows) if row.sampling.is_penalised]
        if not places:
            return None
        penalised = [sequences[place] for place in places]
        told = [self._claim(sequences[place], rows[place].length, penalised) for place in places]
        seen_rows = np.array([self._counted[sequence].row for sequence in penalised], dtype=np.int64)
        texts = [_entries(row, one) for row, one, is_told in zip(seen_rows, penalised, told, strict=True) if is_told]
        entry_rows, ids, values = (np.concatenate(column) for column in zip(_NO_ENTRIES, *texts, strict=True))
        repetition, frequency, presence = penalty_scalars([rows[place] for place in places])
        return CountedPenalties(
            rows=np.array(places, dtype=np.int64),
            seen_rows=seen_rows,
            repetition=repetition,
            frequency=frequency,
            presence=presence,
            reset=seen_rows[told],
            entry_rows=entry_rows,
            ids=ids,
            values=values,
        )

    def penalize_(self, logits: Tensor, penalties: CountedPenalties) -> None:
        """See `ops.penalize_seen_`. penalties: on the device, as in `add`."""
        if self._table is None:
            self._table = torch.zeros(self._shape, dtype=torch.int32, device=logits.device)
        if len(penalties.reset):
            self._table.index_fill_(0, penalties.reset, 0)
            self._table[penalties.entry_rows, penalties.ids] = penalties.values
        scalars = (penalties.repetition, penalties.frequency, penalties.presence)
        ops.penalize_seen_(logits, penalties.rows, self._table, penalties.seen_rows, *scalars)

    def add(self, tokens: Tensor, penalties: CountedPenalties) -> None:
        """Counts what the step has chosen. tokens: of all rows, those without penalties, too."""
        assert self._table is not None, "they were penalised"
        ops.count_seen_(self._table, penalties.seen_rows, tokens[penalties.rows])

    def _claim(self, sequence: Sequence, length: int, busy: Items[Sequence]) -> bool:
        """Whether its row must be told all of its text."""
        is_known = self.knows(sequence, length)
        assert is_known or length == len(sequence.output_token_ids), "it would have waited"
        counted = self._counted.pop(sequence, None)
        row = self._free_row(busy) if counted is None else counted.row
        self._counted[sequence] = _Counted(row, length + 1, sequence.epoch)
        return not is_known

    def _free_row(self, busy: Items[Sequence]) -> int:
        """That of no sequence, or of one that is not in this step: it will be told again."""
        taken = {counted.row for counted in self._counted.values()}
        free = next((row for row in range(self._shape[0]) if row not in taken), None)
        if free is not None:
            return free
        return self._counted.pop(next(sequence for sequence in self._counted if sequence not in busy)).row


_NO_ENTRIES = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int32))


def _entries(
    row: np.int64, sequence: Sequence
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """(rows, ids, values) as in `CountedPenalties`."""
    prompt = np.unique(np.array(sequence.prompt_token_ids, dtype=np.int64))
    output, counts = np.unique(np.array(sequence.output_token_ids, dtype=np.int64), return_counts=True)
    ids = np.union1d(prompt, output)
    values = np.isin(ids, prompt).astype(np.int32)
    values[np.searchsorted(ids, output)] += 2 * counts.astype(np.int32)
    return np.full(len(ids), row, dtype=np.int64), ids, values
