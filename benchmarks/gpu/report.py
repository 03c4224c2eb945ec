"""The short table at the end of a contact: how far each part came, what its rows say, and what failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from gpu.catalogue import Part
from gpu.journal import Journal, Line

_MOST_ROWS = 15
"""Of a part with more, only the shares' middle and the three lowest are printed; the journal has them all."""

_WORST = 3
_MOST_FAILED = 5
_WIDTH = 60
_NAMED = ("part", "case", "shape", "seconds")


def print_report(journal: Journal, parts: Sequence[Part]) -> None:
    """For people; at most a few thousand characters."""
    print()
    for part in parts:
        for line in report_lines(part, journal.ended(part.name)):
            print(line)


def report_lines(part: Part, ended: Mapping[str, Line]) -> list[str]:
    """ended: `Journal.ended` of the part."""
    failed = {name: line for name, line in ended.items() if "error" in line}
    rows = {name: line for name, line in ended.items() if name not in failed}
    missing = f", left out for want of {', '.join(part.missing)}" if part.missing else ""
    took = sum(line["seconds"] for line in ended.values())
    lines = [f"== {part.name} ({part.title}): {len(rows)} rows, {len(failed)} failed, {took:.0f} s{missing}"]
    shares = sorted((line["share"], name) for name, line in rows.items() if "share" in line)
    if len(rows) <= _MOST_ROWS:
        lines += [f"{name:{_WIDTH}}{_values(line)}" for name, line in rows.items()]
    elif shares:
        lines.append(f"shares of the card: {median(share for share, _ in shares):.0%} in the middle; the lowest:")
        lines += [f"{name:{_WIDTH}}{_values(rows[name])}" for _, name in shares[:_WORST]]
    lines += [f"{name:{_WIDTH}}FAILED: {_summary(line['error'])}" for name, line in list(failed.items())[:_MOST_FAILED]]
    return lines + [f"and {len(failed) - _MOST_FAILED} more that failed"] * (len(failed) > _MOST_FAILED)


def _summary(error: str) -> str:
    """Of an exception the last line, of a process that ended the first one."""
    lines = error.splitlines()
    return lines[0 if lines[0].startswith("ended") else -1][:100]


def _values(line: Mapping[str, Any]) -> str:
    shown = {name: value for name, value in line.items() if name not in _NAMED and not isinstance(value, list | dict)}
    return "  ".join(f"{name} {value}" for name, value in shown.items())
