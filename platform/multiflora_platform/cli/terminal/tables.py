"""Tables that fit a terminal: what is long is folded between words, and columns that find no room are left out by name.

Knows neither JSON nor a server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from multiflora_platform.cli.terminal.cells import cell, short

# Names, or names with what stands above them.
Columns = Sequence[str] | Mapping[str, str]
_GAP = 2
# A text is folded to no fewer letters, unless it is shorter; words are longer than this in addresses alone.
_LEAST_TEXT, _LONGEST_WORD = 20, 34


@dataclass(frozen=True)
class Column:
    """With its cells; widths in a terminal's cells."""

    heading: str
    cells: list[str]
    is_number: bool

    @classmethod
    def of(cls, name: str, heading: str, rows: Sequence[Mapping[str, Any]], now: datetime | None) -> Column:
        """now: moments are told from here, in short; None: whole."""
        values = [row.get(name) for row in rows]
        numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in values]
        is_number = any(numbers) and all(
            value is None for value, is_one in zip(values, numbers, strict=True) if not is_one
        )
        cells = [cell(name, value) for value in values]
        return cls(heading, cells if now is None else [short(one, now) for one in cells], is_number)

    @property
    def is_empty(self) -> bool:
        return not any(self.cells)

    @cached_property
    def natural(self) -> int:
        return max(map(cell_len, (self.heading, *self.cells)))

    @cached_property
    def least(self) -> int:
        words = [word for text in self.cells for word in text.split()]
        longest = min(max(map(cell_len, words), default=0), _LONGEST_WORD)
        has_texts = any(" " in text for text in self.cells)
        text = min(max(map(cell_len, self.cells), default=0), _LEAST_TEXT)
        return max(text if has_texts else longest, *map(cell_len, self.heading.split()))


def table(rows: Sequence[Mapping[str, Any]], columns: Columns, width: int | None) -> tuple[Table, list[str]]:
    """The table, and the columns that found no room. width: of the terminal; None: as wide as it gets."""
    headings = columns if isinstance(columns, Mapping) else {name: name.replace("_", " ") for name in columns}
    now = None if width is None else datetime.now(UTC)
    all_columns = [Column.of(name, heading.upper(), rows, now) for name, heading in headings.items()]
    shown = all_columns if width is None else _fitting(all_columns, width)
    widths = [one.natural for one in shown] if width is None else _widths(shown, width)
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for column, letters in zip(shown, widths, strict=True):
        drawn.add_column(
            column.heading, width=letters, justify="right" if column.is_number else "left", overflow="fold"
        )
    for cells in zip(*(column.cells for column in shown), strict=True):
        drawn.add_row(*map(Text, cells))
    return drawn, [column.heading.lower() for column in all_columns if column not in shown and not column.is_empty]


def _fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """Empty ones go first, then the last; the first stays."""
    shown = list(columns)
    while len(shown) > 1 and _total([column.least for column in shown]) > width:
        shown.remove(next((column for column in reversed(shown[1:]) if column.is_empty), shown[-1]))
    return shown


def _widths(columns: Sequence[Column], width: int) -> list[int]:
    """Each has its least; what is left goes to those that want more, in equal parts."""
    widths = [column.least for column in columns]
    while rest := width - _total(widths):
        wanting = [place for place, column in enumerate(columns) if widths[place] < column.natural]
        if rest < 0 or not wanting:
            break
        for place in wanting[:rest]:
            widths[place] += max(1, min(rest // len(wanting), columns[place].natural - widths[place]))
    return widths


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)
