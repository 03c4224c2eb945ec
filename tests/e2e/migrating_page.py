"""docs/migrating.md as rows: what is written elsewhere, what becomes of it here, what to write here. Runs nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
ADAPTERS = ("sql", "pirate", "tools")
UNCHANGED, NOTHING = "the same", "leave it out"
CALL = re.compile(r"(GET|POST|PUT|DELETE) (/\S*)(?: (\{.*\}))?(?: -H '(\w[\w-]*): (.*)')?")
VARIABLE = re.compile(r"([A-Z_]+)=(.+)")


class Row(NamedTuple):
    """written: there. outcome: of that, here. instead: what is to be written here, code, UNCHANGED or NOTHING."""

    chapter: str
    written: str
    outcome: str
    instead: str

    @property
    def kind(self) -> str:
        if self.chapter == "PEFT":
            return "peft"
        if self.written.startswith("--"):
            return "flag"
        if CALL.fullmatch(self.written):
            return "call"
        return "variable" if VARIABLE.fullmatch(self.written) else "python"


def rows() -> list[Row]:
    found, chapter = [], ""
    for line in PAGE.splitlines():
        if line.startswith("## "):
            chapter = line[3:]
        elif line.startswith("| `"):
            written, outcome, instead, _ = (cell.strip() for cell in line.strip("|").split(" | "))
            found.append(Row(chapter, _code(written), outcome, _code(instead)))
    return found


def _code(cell: str) -> str:
    return cell.strip("`")


def of_kind(*kinds: str) -> pytest.MarkDecorator:
    chosen = [row for row in rows() if row.kind in kinds]
    return pytest.mark.parametrize("row", chosen, ids=[f"{row.chapter}: {row.written[:60]}" for row in chosen])
