"""`multiflora adapters rollout`: what it asks the server, and when it asks a person."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from multiflora_platform.cli.main import main

PROMOTE = ["adapters", "rollout", "promote", "sql", "default"]
RUNNING = {"candidate": 2, "state": "running", "min_samples": 20, "candidate_observed": None}


@pytest.fixture
def rollout() -> dict[str, Any]:
    """The alias's newest."""
    return dict(RUNNING)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, rollout: dict[str, Any]) -> list[Any]:
    """The method of each request, and its body."""
    asked: list[Any] = []

    def request(method: str, url: str, **options: Any) -> httpx.Response:
        asked.append((method, options.get("json")))
        return httpx.Response(200, json=rollout, headers={"etag": "e"})

    monkeypatch.setattr(httpx, "request", request)
    return asked


def _answer(monkeypatch: pytest.MonkeyPatch, said: str | None) -> None:
    """What the person at the terminal says; None: there is none to be asked."""

    def read(told: str) -> str:
        assert said is not None, told
        return said

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))


def test_a_person_is_asked_about_a_running_rollout_with_few_requests(
    asked: list[Any], rollout: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _answer(monkeypatch, "n")
    assert main(PROMOTE) == 1
    assert [method for method, _ in asked] == ["GET"]
    _answer(monkeypatch, "y")
    assert main(PROMOTE) == 0
    _answer(monkeypatch, None)
    rollout["candidate_observed"] = {"requests": 20}
    assert main(PROMOTE) == 0
    rollout.update(candidate_observed=None, state="rolled_back")
    assert main(PROMOTE) == 0, "the server says that none is running"


def test_who_is_not_asked_reads_nothing(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that may only change rollouts is enough."""
    _answer(monkeypatch, None)
    assert main([*PROMOTE, "--yes"]) == 0
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False))
    assert main(PROMOTE) == 0
    assert [method for method, _ in asked] == ["POST", "POST"]


def test_steps_are_whole_percentages(asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    start = ["adapters", "rollout", "start", "sql", "default", "2", "--steps"]
    assert main([*start, "1, 10,50,"]) == 0
    assert asked[-1] == ("POST", {"candidate": 2, "why": "", "steps": [1, 10, 50]})
    with pytest.raises(SystemExit):
        main([*start, "1,x"])
    assert "whole percentages, such as 1,10,50" in capsys.readouterr().err


def test_pairs_are_those_of_the_newest_rollout_in_short(
    asked: list[Any], rollout: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    messages = [{"role": "user", "content": "Why?"}]
    pair = {"id": 3, "at": "", "tenant": "acme", "messages": messages, "prompt": None, "agreement": 0.5}
    rollout |= {"id": 7, "kept": True, "items": [{**pair, "stable": "x" * 100, "candidate": "no"}]}
    assert main(["adapters", "rollout", "pairs", "sql", "default", "-o", "table"]) == 0
    told = capsys.readouterr().out
    assert all(text in told for text in ("acme", "Why?", "x" * 60, "no"))
    assert "x" * 61 not in told
    assert len(asked) == 2, "which rollout is the newest is asked for"
    assert main(["adapters", "rollout", "pairs", "sql", "default", "--rollout", "7", "-o", "json"]) == 0
    assert "x" * 100 in capsys.readouterr().out
    assert len(asked) == 3
    rollout["kept"] = False
    assert main(["adapters", "rollout", "pairs", "sql", "default"]) == 1
    assert "--log-bodies" in capsys.readouterr().err


def test_the_outcome_comes_first_of_the_alias_default(
    monkeypatch: pytest.MonkeyPatch, rollout: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    observed = {f"{one}_observed": {"requests": 5} for one in ("stable", "candidate", "shadow")}
    rollout |= {"id": 1, "stable": 1, "state": "rolled_back", "reason": "errors", **observed}
    paths = []

    def request(method: str, url: str, **options: Any) -> httpx.Response:
        paths.append(httpx.URL(url).path.removeprefix("/api/v1"))
        return httpx.Response(200, json={**rollout, "items": [rollout], "next_page_token": None})

    monkeypatch.setattr(httpx, "request", request)
    assert main(["adapters", "rollout", "show", "sql"]) == 0
    shown = [one.split(None, 1) for one in capsys.readouterr().out.splitlines()]
    assert shown[:2] == [["state", "rolled_back"], ["reason", "errors"]]
    assert main(["adapters", "rollout", "ls"]) == 0
    assert main(["adapters", "rollout", "ls", "sql"]) == 0
    assert paths == ["/adapters/sql/aliases/default/rollout", "/rollouts", "/adapters/sql/aliases/default/rollouts"]
