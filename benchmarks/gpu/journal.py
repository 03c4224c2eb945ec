"""What the first contact has found so far: a file of JSON lines that is only ever appended to. Knows no parts.

{"part", "case", "began"}               a process is at the case; its next line says how it ended
{"part", "case", "seconds", …}          its row
{"part", "case", "seconds", "error"}    it failed
{"part", "case", "again"}               it is to be tried once more
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class Journal:
    """One process writes at a time. A line that a killed process left half written is passed over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            self._write("\n")

    def began(self, part: str, case: str) -> None:
        self._append(part, case, {"began": round(time.time(), 1)})

    def done(self, part: str, case: str, seconds: float, row: Line) -> None:
        self._append(part, case, {"seconds": round(seconds, 2)} | row)

    def failed(self, part: str, case: str, seconds: float, error: str) -> None:
        self._append(part, case, {"seconds": round(seconds, 2), "error": error})

    def try_failed_again(self) -> None:
        for line in [line for line in self._lines() if "error" in line]:
            self._append(line["part"], line["case"], {"again": True})

    def ended(self, part: str) -> dict[str, Line]:
        """The last line of each case that has come to an end, well or not, in their order."""
        found: dict[str, Line] = {}
        for line in self._of(part):
            if "seconds" in line:
                found[line["case"]] = line
            elif "again" in line:
                found.pop(line["case"], None)
        return found

    def under_way(self, part: str) -> Line | None:
        """The line of the case that a process began and did not end."""
        last: Line = {}
        for line in self._of(part):
            last = line
        return last if "began" in last else None

    def _of(self, part: str) -> Iterator[Line]:
        return (line for line in self._lines() if line["part"] == part)

    def _lines(self) -> Iterator[Line]:
        if not self._path.exists():
            return
        for text in self._path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(text)
            except ValueError:
                continue

    def _append(self, part: str, case: str, values: Line) -> None:
        self._write(json.dumps({"part": part, "case": case} | values) + "\n")

    def _write(self, text: str) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(text)
