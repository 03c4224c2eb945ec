"""What one more row costs a decode step, learned from how long steps take. Knows neither sequences nor drafts."""

from __future__ import annotations

_FIRST_SLOPE = 0.12
"""Of a step with one row, what each further row adds until steps have shown it: measured on a CPU with a model of 30
million parameters; of larger ones it is less."""

_KEPT = 0.98
"""Weight of all earlier steps when one more is seen: the machine's pace changes, and so do contexts."""

_TRUST = 0.5
"""How much the first slope weighs, in squared rows: steps of one size tell nothing of another."""

_OUTLIER = 3.0
"""Times what was expected; a step that takes longer was interrupted."""

_FEWEST = 8
"""Steps, by their weight, after which something is expected."""

_LEAST, _MOST = 0.02, 20.0
"""Parts of a token that a row is said to cost at least and at most."""


class StepCosts:
    """Seconds of a step as a line over its rows, fitted with decaying weights."""

    def __init__(self) -> None:
        self._weight = 0.0
        self._rows = 0.0
        self._seconds = 0.0
        # Sums of squared and mixed distances from the two means above.
        self._spread = 0.0
        self._common = 0.0

    def observe(self, rows: int, seconds: float) -> None:
        """A step of that many rows, one for each running sequence and one for each drafted token."""
        expected = self._seconds + self._slope() * (rows - self._rows)
        is_outlier = self._weight > _FEWEST and seconds > _OUTLIER * expected
        # Also where the step is not counted: if all take so long from now on, earlier ones are soon too few to say so.
        self._weight *= _KEPT
        self._spread *= _KEPT
        self._common *= _KEPT
        if is_outlier:
            return
        kept = self._weight
        self._weight += 1
        off_rows, off_seconds = rows - self._rows, seconds - self._seconds
        self._rows += off_rows / self._weight
        self._seconds += off_seconds / self._weight
        share = kept / self._weight
        self._spread += share * off_rows * off_rows
        self._common += share * off_rows * off_seconds

    def of_row(self, sequences: int) -> float:
        """What a row more costs a step of so many sequences, in tokens: parts of what that step takes for each."""
        if not self._weight:
            cost = _FIRST_SLOPE * sequences / (1 - _FIRST_SLOPE + _FIRST_SLOPE * sequences)
            return min(_MOST, max(_LEAST, cost))
        slope = self._slope()
        step = max(self._seconds + slope * (sequences - self._rows), self._seconds * _LEAST)
        return min(_MOST, max(_LEAST, slope * sequences / step))

    def _slope(self) -> float:
        """Seconds of a row."""
        first = self._seconds * _FIRST_SLOPE / (1 - _FIRST_SLOPE + _FIRST_SLOPE * self._rows)
        return (self._common + _TRUST * first) / (self._spread + _TRUST)
