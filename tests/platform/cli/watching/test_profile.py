"""`multiflora profile`: it waits for the end, and saves the trace under the server's name or where it is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from multiflora_platform.cli.main import main
from multiflora_platform.cli.watching import profile

RUNNING = {"id": "prof-1", "kind": "memory", "process": "engine", "replica": "1", "state": "running", "error": None}
DONE = {**RUNNING, "state": "done", "file": "prof-1.txt", "bytes": 6}


class Server:
    def __init__(self, *states: dict[str, Any]) -> None:
        self.states = list(states)
        self.bodies: list[Any] = []

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        if method == "POST":
            self.bodies.append(options["json"])
            return httpx.Response(202, json=self.states.pop(0))
        if url.endswith("/api/v1/profile/prof-1/trace"):
            return httpx.Response(200, content=b"report")
        return httpx.Response(200, json=self.states.pop(0))


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(profile.time, "sleep", lambda seconds: None)


def test_the_trace_is_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    server = Server(RUNNING, RUNNING, DONE)
    monkeypatch.setattr(httpx, "request", server.request)
    assert main(["profile", "--kind", "memory", "--seconds", "3", "--replica", "1", "--api-key", "k"]) == 0
    assert server.bodies == [{"kind": "memory", "seconds": 3.0, "replica": "1"}]
    assert (tmp_path / "prof-1.txt").read_bytes() == b"report"
    assert capsys.readouterr().out == "prof-1.txt: 6 bytes, memory of replica 1\n"


def test_a_program_is_told_in_json_what_was_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(httpx, "request", Server(RUNNING, DONE).request)
    assert main(["profile", "--kind", "memory", "--file", "here.txt", "-o", "json", "--api-key", "k"]) == 0
    assert json.loads(capsys.readouterr().out) == {**DONE, "file": "here.txt"}
    assert (tmp_path / "here.txt").read_bytes() == b"report"


def test_it_is_printed_where_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    server = Server({**RUNNING, "replica": None}, {**DONE, "replica": None})
    monkeypatch.setattr(httpx, "request", server.request)
    assert main(["profile", "--gateway", "--file", "-", "--api-key", "k"]) == 0
    assert server.bodies == [{"kind": "python", "seconds": 5.0, "process": "gateway"}]
    assert capfdbinary.readouterr().out == b"report"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ([], "The engine of replica 1 ended"),
        (["--file", "missing/folder/x"], "cannot write missing/folder/x: No such file"),
    ],
)
def test_what_goes_wrong_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str], said: str
) -> None:
    failed = {**RUNNING, "state": "failed", "error": "The engine of replica 1 ended during the profile."}
    monkeypatch.setattr(httpx, "request", Server(RUNNING, DONE if command else failed).request)
    assert main(["profile", *command, "--api-key", "k"]) == 1
    assert said in capsys.readouterr().err
