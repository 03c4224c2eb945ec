"""Tables on terminals of any width and in pipes, and single objects."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from multiflora_platform.cli.main import build_parser
from multiflora_platform.cli.terminal.output import emit, emit_one
from multiflora_platform.cli.terminal.tables import table

ROW = {"id": "key_76e1756903640ef8", "name": "a name of words", "empty": None, "count": 7, "url": "https://x.test/" * 3}
COLUMNS = ("id", "name", "empty", "count", "url")


def drawn(rows: list[dict[str, Any]], columns: Any, width: int) -> tuple[list[str], list[str]]:
    console = Console(width=width, force_terminal=False)
    with console.capture() as captured:
        shown, left_out = table(rows, columns, width)
        console.print(shown)
    return captured.get().splitlines(), left_out


def test_what_has_no_room_is_left_out_by_name_and_the_empty_first() -> None:
    lines, left_out = drawn([ROW], COLUMNS, 50)
    assert left_out == ["url"]
    assert lines[0].split() == ["ID", "NAME", "COUNT"]
    assert lines[1].split("  ")[0] == ROW["id"], "an id is never cut"
    lines, left_out = drawn([ROW], COLUMNS, 100)
    assert left_out == []
    assert "EMPTY" in lines[0]


@given(
    rows=st.lists(st.lists(st.text("ab 长\x1b", max_size=30), min_size=4, max_size=4), max_size=4),
    width=st.integers(20, 60),
)
def test_no_line_is_wider_than_the_terminal(rows: list[list[str]], width: int) -> None:
    lines, _ = drawn([dict(zip("wxyz", row, strict=True)) for row in rows], "wxyz", width)
    assert max(map(cell_len, lines)) <= max(width, 34)


def test_a_pipe_gets_every_column_and_whole_moments(capsys: pytest.CaptureFixture[str]) -> None:
    emit("table", [{**ROW, "at": "2026-03-01T09:08:07.5+00:00"}], {**{name: name for name in COLUMNS}, "at": "made at"})
    said = capsys.readouterr()
    head, line = said.out.splitlines()
    assert head.rstrip().endswith("MADE AT")
    assert line.split()[-1] == "2026-03-01T09:08:07Z"
    assert said.err == ""


def test_a_terminal_is_told_what_it_does_not_show(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "30")
    emit("table", [ROW], COLUMNS)
    assert capsys.readouterr().err == "no room for: name, count, url; a wider terminal or --json shows them\n"


def test_an_object_is_a_line_for_each_key_and_parts_stand_below(capsys: pytest.CaptureFixture[str]) -> None:
    emit_one("table", {"name": "x", "etag": '"1"', "few": {"a": 1}, "many": {"text": "y" * 60, "n": None}})
    assert capsys.readouterr().out.splitlines() == ["name  x", "few   a=1", "many", f"  text  {'y' * 60}", "  n"]
    emit_one("table", {"parts": [{"id": "z" * 40}, {"id": "z" * 41}]})
    assert capsys.readouterr().out.splitlines() == ["parts", f"  id={'z' * 40}", f"  id={'z' * 41}"]


def test_json_is_one_word() -> None:
    assert build_parser().parse_args(["adapters", "ls", "--json"]).output == "json"
