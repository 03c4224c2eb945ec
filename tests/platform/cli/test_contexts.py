"""`multiflora contexts`: what it sends, what it prints, how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from multiflora_platform.cli import contexts
from multiflora_platform.cli.main import main

SHOWN = {"name": "c", "tenant": None, "status": "warm", "tokens": 9, "adapters": {"base": {}}}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Any]]:
    """Requests that were made; the first one after a PUT still computes."""
    asked: list[tuple[str, str, Any]] = []

    def request(method: str, url: str, **options: Any) -> httpx.Response:
        asked.append((method, url, options))
        if method == "DELETE":
            return httpx.Response(204)
        if url.endswith("/contexts"):
            return httpx.Response(200, json={"items": [SHOWN], "next_page_token": None})
        return httpx.Response(200, json={**SHOWN, "status": "computing" if method == "PUT" else "warm"})

    monkeypatch.setattr(httpx, "request", request)
    monkeypatch.setattr(contexts, "_POLL_SECONDS", 0)
    return asked


def test_put_sends_the_file_and_waits(asked: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rules.txt").write_text("Be brief.", encoding="utf-8")
    (tmp_path / "tools.json").write_text("[]", encoding="utf-8")
    files = ["--system-file", str(tmp_path / "rules.txt"), "--tools-file", str(tmp_path / "tools.json")]
    flags = ["--adapter", "a", "--adapter", "b", "--ttl", "1h", "--no-pin", "--tenant", "acme", "--wait", "-o", "json"]
    assert main(["contexts", "put", "c", *files, *flags]) == 0
    assert [(method, options["params"]) for method, _, options in asked] == [
        ("PUT", {"tenant": "acme"}),
        ("GET", {"tenant": "acme"}),
    ]
    assert asked[0][2]["json"] == {
        "messages": [{"role": "system", "content": "Be brief."}],
        "tools": [],
        "adapters": ["a", "b"],
        "ttl": "1h",
        "pin": False,
        "priority": 0,
    }
    assert json.loads(capsys.readouterr().out)["status"] == "warm"


def test_the_others(asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contexts", "ls"]) == main(["contexts", "show", "c"]) == main(["contexts", "rm", "c"]) == 0
    assert [(method, url.rpartition("/api/v1")[2]) for method, url, _ in asked] == [
        ("GET", "/contexts"),
        ("GET", "/contexts/c"),
        ("DELETE", "/contexts/c"),
    ]
    assert "base" in capsys.readouterr().out


@pytest.mark.parametrize(("flag", "content"), [("--messages-file", "[{"), ("--tools-file", None)])
def test_files_that_cannot_be_used(asked: list[Any], tmp_path: Path, flag: str, content: str | None) -> None:
    path = tmp_path / "file.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    others = ["--system-file", "/dev/null"] if flag == "--tools-file" else []
    assert main(["contexts", "put", "c", flag, str(path), *others]) == 3
    assert not asked
