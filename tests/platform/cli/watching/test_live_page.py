"""The page of `multiflora top`: what stands on it, and that it fits."""

from __future__ import annotations

from typing import Any

import pytest
from rich.cells import cell_len
from tests.platform.cli.watching.live_answers import NOW, answers, prompt

from multiflora_platform.cli.watching.live_numbers import Answers, numbers_of
from multiflora_platform.cli.watching.live_page import keys_line, page


def lines_of(told: Answers, width: int = 200, sort: str = "requests", **options: Any) -> list[str]:
    return [line.plain.rstrip() for line in page(numbers_of(told), sort, width, **options)]


def test_a_wide_page() -> None:
    rows = (
        prompt("0123456789", ended=None, tenant="acme"),
        *(prompt(str(i), "sql", completion_tokens=999) for i in "ab"),
    )
    assert lines_of(answers(*rows)) == [
        "multiflora 1.2.3  http://here  up 1:01:01  00:53:20 UTC",
        "models base ready, other idle  engines 2 ready, 1 starting  requests/s 2.0  errors/s 0.5  tokens/s 1,200.0  "
        "running 3  waiting 1  TTFT p50 500 ms  TTFT p95 500 ms  KV blocks 500 of 2,000",
        "cache hits 25%  gateway 161.0 MB",
        "error: The engine restarts. Read its log.",
        "",
        "the last 60 s; rates above: 10 s",
        "ADAPTER  RUNNING  REQUESTS↓  TOKENS  ERRORS    P95",
        "sql            1          2   1,998       0  2.0 s",
        "",
        "running now",
        "REQUEST       TENANT   STAGE  SECONDS↓  PROMPT  TOKENS",
        "01234567 sql    acme  decode       2.0     100      10",
    ]


@pytest.mark.parametrize("width", [1, 10, 37, 80])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    rows = (
        prompt("a", "名" * 40),
        prompt("b", "e\u0301" * 30, ended=None),
        prompt("c", "🎉" * 20, ended=None, tenant="店"),
    )
    numbers = numbers_of(answers(*rows))
    shown = page(numbers, "name", width, trouble="cannot reach 名名名名名名")
    assert max(line.cell_len for line in [*shown, keys_line("name", width)]) <= width


def test_columns_stand_below_each_other_whatever_the_names_are() -> None:
    lines = lines_of(answers(prompt("a", "名前"), prompt("b", "sql")), width=80)
    head, *rows = lines[lines.index("ADAPTER  RUNNING  REQUESTS↓  TOKENS  ERRORS    P95") :]
    assert [cell_len(row) for row in rows] == [cell_len(head)] * 2


def test_an_empty_server_has_a_page() -> None:
    lines = lines_of(answers(models=[], replicas=[], points=[], alerts=[]))
    assert lines[1:] == ["running 0  waiting 0", "", "the last 60 s; rates above: 10 s", lines[-1]]
    assert "ADAPTER" in lines[-1]


def test_a_key_that_is_told_nothing_has_the_head_alone() -> None:
    assert lines_of(Answers(url="http://here", at=NOW, version="1.2.3")) == [
        "multiflora 1.2.3  http://here  00:53:20 UTC",
        "",
        "The server tells this key no more; an admin key sees all.",
    ]


def test_many_adapters_leave_room_for_what_runs() -> None:
    rows = [prompt(f"e{i}", f"adapter-{i:03}") for i in range(100)]
    rows += [prompt(f"r{i}", "adapter-000", ended=None) for i in range(50)]
    lines = lines_of(answers(*rows), height=30)
    assert len(lines) == 30
    assert sum(line.startswith("adapter-") for line in lines) == 13
    assert [line for line in lines if line.startswith("…")] == ["… 87 more", "… 45 more"]
    assert len(lines_of(answers(*rows))) > 150, "a pipe has them all"
    assert len(lines_of(answers(*rows), height=5)) == 5


def test_trouble_stands_above_the_last_numbers() -> None:
    lines = lines_of(answers(), trouble="cannot reach http://here")
    assert lines[1] == "cannot reach http://here"
    assert lines[2].startswith("models base ready")


def test_what_would_move_the_cursor_does_not_reach_the_terminal() -> None:
    alert = {"id": "x", "severity": "warning", "title": "\x1b[2Jgone\n", "next_step": ""}
    text = "\n".join(lines_of(answers(prompt("a", "s\x1bql"), prompt("\x07", ended=None), alerts=[alert])))
    assert not {"\x1b", "\x07"} & set(text)
    assert "warning: ?[2Jgone?" in text
