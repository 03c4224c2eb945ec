"""`multiflora evals`: what it sends, what it prints, how it ends."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from multiflora_platform.cli import evals
from multiflora_platform.cli.main import main

RUN = {"id": 7, "eval": "smoke", "eval_version": 1, "model": "sql@2", "state": "completed", "score": 0.5, "total": 2}
SET = {"name": "smoke", "version": 1, "min_score": 0.9, "cases": [{}, {}]}
SIDE = {"outcome": "failed", "answer": "no", "checks": [{"type": "exact", "passed": False, "detail": "it is not 'y'"}]}
ITEM = {"position": 0, "name": None, "question": "Why?", **SIDE}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Any]]:
    """Method, path below the adapter, and body of each request; a run that is asked for is still queued."""
    asked: list[tuple[str, str, Any]] = []

    def request(method: str, url: str, **options: Any) -> httpx.Response:
        path = url.rpartition("/api/v1/adapters/sql")[2]
        asked.append((method, path, options.get("json") or options.get("params") or {}))
        if method == "POST":
            return httpx.Response(202, json={**RUN, "state": "queued"})
        if "compare" in path:
            item = {**ITEM, "change": "same", "left": SIDE, "right": None}
            both = {"left": RUN, "right": {**RUN, "model": "sql@3"}, "better": 0, "worse": 0, "same": 1}
            return httpx.Response(200, json={**both, "items": [item]})
        if "matrix" in path:
            return httpx.Response(200, json={"runs": [RUN], "rows": [{**ITEM, "outcomes": ["failed"]}]})
        if path.endswith("/7"):
            return httpx.Response(200, json={"run": RUN, "items": [ITEM]})
        return httpx.Response(200, json={**SET, "items": [SET], "next_page_token": None})

    monkeypatch.setattr(httpx, "request", request)
    monkeypatch.setattr(evals, "_POLL_SECONDS", 0)
    return asked


def test_put_takes_a_list_or_an_object(asked: list[Any], tmp_path: Path) -> None:
    (tmp_path / "cases.json").write_text('[{"prompt": "x"}]', encoding="utf-8")
    (tmp_path / "set.json").write_text('{"cases": [], "min_score": 0.1}', encoding="utf-8")
    (tmp_path / "bad.json").write_text("3", encoding="utf-8")
    assert main(["evals", "put", "sql", "smoke", str(tmp_path / "cases.json"), "--alias", "live"]) == 0
    assert main(["evals", "put", "sql", "smoke", str(tmp_path / "set.json"), "--min-score", "0.9"]) == 0
    assert [body for _, _, body in asked] == [
        {"cases": [{"prompt": "x"}], "aliases": ["live"]},
        {"cases": [], "min_score": 0.9},
    ]
    assert main(["evals", "put", "sql", "smoke", str(tmp_path / "bad.json")]) == 3
    assert main(["evals", "put", "sql", "smoke", str(tmp_path / "none.json")]) == 3


def test_run_waits_and_its_exit_code_is_the_gates(asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evals", "run", "sql", "smoke", "--version", "1", "--version", "2", "-o", "json"]) == 5
    posts = [body for method, _, body in asked if method == "POST"]
    assert posts == [{"version": 1}, {"version": 2}]
    assert [body for _, path, body in asked if path.endswith("/7")] == [{"results": False}] * 2, "it only waits"
    assert [run["state"] for run in json.loads(capsys.readouterr().out)] == ["completed"] * 2
    asked.clear()
    assert main(["evals", "run", "sql", "smoke", "--mix", "sql=0.5", "--mix", "math", "--no-wait"]) == 0
    assert asked == [
        ("POST", "/evals/smoke/runs", {"adapters": [{"name": "sql", "weight": 0.5}, {"name": "math", "weight": 1.0}]})
    ]
    assert main(["evals", "run", "sql", "smoke", "--mix", "sql=x"]) == 2
    assert main(["evals", "run", "sql", "smoke", "--version", "1", "--model", "base"]) == 2


def test_tables_say_what_failed_and_what_changed(asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evals", "result", "sql", "7"]) == main(["evals", "matrix", "sql", "smoke"]) == 0
    assert main(["evals", "compare", "sql", "7", "8"]) == main(["evals", "runs", "sql", "--eval", "smoke"]) == 0
    shown = capsys.readouterr().out
    assert "exact: it is not 'y'" in shown
    assert "SQL@2 #7" in shown
    assert "sql@3 against sql@2: 0 better, 0 worse, 1 same" in shown
    assert main(["evals", "set", "sql", "smoke"]) == 2
    assert main(["evals", "set", "sql", "smoke", "--no-min-score"]) == 0
    assert asked[-1] == ("PATCH", "/evals/smoke", {"min_score": None})
    shown = capsys.readouterr().out
    assert re.search(r"^cases +2$", shown, re.M), shown
