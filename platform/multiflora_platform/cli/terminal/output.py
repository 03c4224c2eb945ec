"""How commands print: a table for people, JSON for programs. Knows no server."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

# Lines for programs that read a pipe are not folded.
_PIPE_COLUMNS = 10_000


def add_output_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="how to print")


def emit(output: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print rows; the table shows `columns`, JSON shows everything."""
    if output == "json":
        json.dump(list(rows), sys.stdout, indent=2, ensure_ascii=False)
        print()
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.upper(), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(row.get(column))) for column in columns))
    Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS).print(table)


def emit_one(output: str, row: Mapping[str, Any]) -> None:
    """Print one object: JSON, or a line per key."""
    if output == "json":
        json.dump(row, sys.stdout, indent=2, ensure_ascii=False)
        print()
        return
    width = max(map(len, row), default=0)
    for key, value in row.items():
        print(f"{key:<{width}}  {_cell(value)}")


def tell(output: str, verb: str, what: str) -> None:
    """Print what was done, where no object is left to print."""
    print(json.dumps({verb: what}) if output == "json" else f"{verb} {what}")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False) if value else ""
    return str(value)
