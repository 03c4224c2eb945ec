"""How commands print: a table for people, JSON for programs. Knows no server."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from multiflora_platform.cli.terminal.cells import cell, line
from multiflora_platform.cli.terminal.tables import Columns, table

# Lines for programs that read a pipe are not folded.
_PIPE_COLUMNS = 10_000
# What is longer than so has a line for each of its parts.
_ONE_LINE = 60


def add_output_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="how to print")
    parser.add_argument("--json", dest="output", action="store_const", const="json", help="as -o json")


def emit(output: str, rows: Sequence[Mapping[str, Any]], columns: Columns) -> None:
    """Print rows; the table shows `columns`, on a terminal the first that fit; JSON shows everything."""
    if output == "json":
        json.dump(list(rows), sys.stdout, indent=2, ensure_ascii=False)
        print()
        return
    console = Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS)
    drawn, left_out = table(rows, columns, console.width if sys.stdout.isatty() else None)
    console.print(drawn)
    if left_out:
        print(f"no room for: {', '.join(left_out)}; a wider terminal or --json shows them", file=sys.stderr)


def emit_one(output: str, row: Mapping[str, Any]) -> None:
    """Print one object: JSON, or a line per key."""
    if output == "json":
        json.dump(row, sys.stdout, indent=2, ensure_ascii=False)
        print()
        return
    for one in _lines({key: value for key, value in row.items() if key != "etag"}):  # commands ask for it themselves
        print(one)


def tell(output: str, verb: str, what: str) -> None:
    """Print what was done, where no object is left to print."""
    print(json.dumps({verb: what}) if output == "json" else f"{verb} {what}")


def _lines(row: Mapping[str, Any]) -> Iterator[str]:
    width = max(map(len, row), default=0)
    for key, value in row.items():
        shown = line(key, value)
        if len(shown) <= _ONE_LINE or not _has_parts(value):
            yield f"{key:<{width}}  {shown}".rstrip()
        elif isinstance(value, Mapping):
            yield key
            yield from (f"  {inner}" for inner in _lines(value))
        else:
            yield key
            yield from (f"  {cell(key, part)}" for part in value)


def _has_parts(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(part, Mapping) for part in value))
