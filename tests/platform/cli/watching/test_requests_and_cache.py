"""`multiflora requests` and `multiflora cache show|misses|drift|explain|warm`: what they ask, and what they print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from multiflora_platform.cli.main import main

REQUEST = {
    "id": "r" * 32,
    "at": 1772356087.5,
    "tenant": "acme",
    "model": "sql",
    "adapter": "sql",
    "version": 2,
    "status": 200,
    "prompt_tokens": 9,
    "cached_tokens": 0,
    "miss_reason": "first_seen",
    "timeline": [{"stage": "queue", "start": 0, "end": 1}],
}
CACHE = {
    **dict.fromkeys(("blocks", "free", "cached", "block_size", "bytes_per_block", "evictions"), 4),
    "queries_tokens": 8,
    "hits_tokens": 6,
    "savings": [{"adapter": "sql", "tokens": 6, "device_seconds": 0.5, "money": {"saved": 2.5, "currency": "EUR"}}],
}
ANSWERS = {
    "/api/v1/requests": {"items": [REQUEST, {**REQUEST, "version": None, "adapter": None, "model": "none"}]},
    f"/api/v1/requests/{'r' * 32}": REQUEST,
    "/api/v1/cache": CACHE,
    "/api/v1/cache/misses": {"items": [{"at": 1772356087.5, "model": "sql", "reason": "first_seen"}]},
    "/api/v1/cache/drift": {"items": [{"tenant": "acme", "kind": "timestamp", "advice": "move it"}]},
    "/api/v1/cache:explain": {"cause": "timestamp", "advice": "move it"},
    "/api/v1/cache:warm": {"cached_tokens": 0, "computed_tokens": 3},
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    asked: list[dict[str, Any]] = []

    def request(method: str, url: str, **options: Any) -> httpx.Response:
        asked.append(options)
        return httpx.Response(200, json=ANSWERS[httpx.URL(url).path])

    monkeypatch.setattr(httpx, "request", request)
    return asked


def test_requests_tell_the_version_that_answered(asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["requests", "ls", "--tenant", "acme", "--status", "200", "--limit", "5"]) == 0
    assert asked[0]["params"] == {"tenant": "acme", "status": 200, "limit": 5}
    _, first, second = capsys.readouterr().out.splitlines()
    assert first.split()[:4] == ["2026-03-01T09:08:07Z", "r" * 32, "sql@2", "200"]
    assert second.split()[2] == "none", "what was asked for, where no version answered"
    assert main(["requests", "show", "r" * 32]) == 0
    shown = dict(one.split(None, 1) for one in capsys.readouterr().out.splitlines())
    assert (shown["miss_reason"], shown["at"], "timeline" in shown) == ("first_seen", "2026-03-01T09:08:07Z", False)
    assert main(["requests", "ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == ANSWERS["/api/v1/requests"]["items"]


@pytest.mark.parametrize(
    ("action", "part"),
    [
        ("show", "hit_rate         0.75"),
        ("show", "2.5"),
        ("misses", "2026-03-01T09:08:07Z  sql    first_seen"),
        ("drift", "move it"),
    ],
)
def test_what_the_cache_has_and_lacks(
    asked: list[Any], action: str, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache", action]) == 0
    assert part in capsys.readouterr().out


def test_a_prompt_is_explained_and_warmed(asked: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rules.txt").write_text("Be brief.", encoding="utf-8")
    given = ["sql", "--system-file", str(tmp_path / "rules.txt")]
    assert main(["cache", "explain", *given, "--compare", "r1"]) == 0
    assert main(["cache", "warm", *given, "--tenant", "acme"]) == 0
    body = {"model": "sql", "messages": [{"role": "system", "content": "Be brief."}]}
    assert [one["json"] for one in asked] == [{**body, "compare": "r1"}, {**body, "tenant": "acme"}]
    assert capsys.readouterr().out.splitlines()[0].split() == ["cause", "timestamp"]
