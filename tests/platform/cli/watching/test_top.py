"""`multiflora top` at a terminal and in a pipe, against a gateway's application and a server's double."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import threading
from argparse import Namespace
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from tests.platform.cli.watching.live_answers import ALERTS, MODELS, NOW, REPLICAS, point, prompt
from tests.platform.gateway.house import ADMIN, TENANT, House

from multiflora_platform.cli.main import main
from multiflora_platform.cli.watching.live_server import LiveServer

ANSWERS: dict[str, Any] = {
    "/version": {"version": "1.2.3"},
    "/api/v1/alerts": {"items": ALERTS},
    "/api/v1/models": {"items": MODELS},
    "/api/v1/replicas": {"items": REPLICAS},
    "/api/v1/series": {"points": [point()]},
}


def requests(*items: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"items": items, "next_page_token": None, "cursor": "log.1", "is_complete": True, **fields}


class Server:
    """The server's double. pages: what it answers about requests, one after the other. asked: how it was asked for
    them. certificates: what the calls were made with."""

    def __init__(self, *pages: dict[str, Any]) -> None:
        self.pages = list(pages)
        self.asked: list[dict[str, Any]] = []
        self.certificates: set[Any] = set()

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        path = httpx.URL(url).path
        self.certificates.add(options.get("verify"))
        if path == "/metrics":
            return httpx.Response(200, text=f"# HELP x\nprocess_start_time_seconds {NOW - 60}\nother 1\n")
        if path == "/api/v1/requests":
            self.asked.append(options["params"])
            return httpx.Response(200, json=self.pages.pop(0))
        return httpx.Response(200, json=ANSWERS[path])


@pytest.fixture
async def house_served(house: House, monkeypatch: pytest.MonkeyPatch) -> House:
    """The application answers what the command asks from another thread."""
    loop = asyncio.get_running_loop()

    def request(method: str, url: str, timeout: float, verify: Any, **options: Any) -> httpx.Response:
        asking = house.http.request(method, httpx.URL(url).raw_path.decode(), **options)
        return asyncio.run_coroutine_threadsafe(asking, loop).result(30)

    monkeypatch.setattr(httpx, "request", request)
    return house


async def test_one_page_of_an_application(house_served: House, capsys: pytest.CaptureFixture[str]) -> None:
    chat = {"model": "sql", "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 3}
    assert (await house_served.post("/v1/chat/completions", chat)).status_code == 200
    assert await asyncio.to_thread(main, ["top", "--once", "--api-key", ADMIN]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:5] == ["sql", "0", "1", "3", "0"] for line in lines), lines


async def test_a_tenants_key_gets_what_it_may_see(house_served: House, capsys: pytest.CaptureFixture[str]) -> None:
    assert await asyncio.to_thread(main, ["top", "--api-key", TENANT]) == 0
    told = capsys.readouterr().out
    assert "ADAPTER" in told, "of its own requests"
    assert "waiting" not in told, "which is of the engines"


async def test_an_unknown_key_is_an_error(house_served: House, capsys: pytest.CaptureFixture[str]) -> None:
    assert await asyncio.to_thread(main, ["top", "--api-key", "mf-wrong"]) == 1
    assert "--api-key" in capsys.readouterr().err


def test_json_has_the_numbers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    server = Server(
        requests(prompt("a", ended=None), next_page_token="t"), requests(prompt("b"), prompt("c", ended=61.0))
    )
    monkeypatch.setattr(httpx, "request", server.request)
    assert main(["top", "-o", "json", "--once", "--api-key", "k"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["version"], told["up_seconds"], told["running"], told["kv_blocks"]) == ("1.2.3", 60.0, 3, 2000)
    assert [(row["name"], row["running"], row["requests"]) for row in told["adapters"]] == [("sql", 1, 1)]
    assert server.asked == [{"limit": 1000}, {"limit": 1000, "page_token": "t"}]


def test_only_what_changed_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(
        requests(prompt("a", ended=None), prompt("b"), cursor="log.7"),
        requests(prompt("a"), prompt("c", ended=None), is_complete=False),
        requests(prompt("d"), cursor="other.1"),
    )
    monkeypatch.setattr(httpx, "request", server.request)
    live = LiveServer(Namespace(url="http://here", api_key="k"))
    counts = [(load.running, load.requests) for _ in range(3) for load in live.look().adapters or ()]
    assert counts == [(1, 1), (1, 2), (0, 1)], "another process knows nothing of what was before"
    assert [asked.get("since") for asked in server.asked] == [None, "log.7", "log.1"]
    assert len(server.certificates) == 1, "they are not read for each call"


def test_no_server_is_unreachable() -> None:
    assert main(["top", "--once", "--url", "http://127.0.0.1:9"]) == 4


@pytest.mark.parametrize("interval", ["0.4", "nan", "inf", "soon"])
def test_an_interval_is_half_a_second_at_least(interval: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["top", "--interval", interval])
    assert caught.value.code == 2
    assert "from 0.5 up" in capsys.readouterr().err


def _at_a_terminal() -> None:
    """Its keys are its signals; Ctrl-C ends it even where tests run in the background, which ignores it."""
    os.login_tty(os.dup(0))
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """`multiflora top` with a terminal of its own. seen: all that it wrote."""

    def __init__(self, url: str) -> None:
        environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self.seen, self._read = "", 0
        self._ours, self.theirs = pty.openpty()
        self.resize(80)
        self.before = termios.tcgetattr(self.theirs)
        command = [sys.executable, "-m", "multiflora", "top", "--url", url, "--api-key", "k", "--interval", "0.5"]
        self.process = subprocess.Popen(
            command,
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            env={**environ, "TERM": "xterm", "NO_COLOR": "1"},
            preexec_fn=_at_a_terminal,
        )

    def resize(self, columns: int) -> None:
        termios.tcsetwinsize(self._ours, (24, columns))

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    def until(self, text: str) -> None:
        """Reads on from what was last waited for until the command has written it."""
        while (at := self.seen.find(text, self._read)) < 0:
            assert select.select([self._ours], [], [], 60)[0], self.seen[self._read :]
            self.seen += os.read(self._ours, 65536).decode(errors="replace")
        self._read = at + len(text)

    def ends_restored(self, code: int) -> None:
        self.until("\x1b[?25h")
        assert "\x1b[?1049l" in self.seen
        assert self.process.wait(60) == code
        assert termios.tcgetattr(self.theirs) == self.before

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self.theirs)


@pytest.fixture
def url() -> Iterator[str]:
    """Of a server that answers as its double, over a socket."""
    server = Server(*[requests(prompt("a"), is_complete=False)] * 1000)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            answer = server.request(self.command, self.path, params={})
            self.send_response(answer.status_code)
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_it_follows_keys_and_the_windows_size_until_q(url: str) -> None:
    with contextlib.closing(Terminal(url)) as terminal:
        terminal.until("REQUESTS↓")
        assert "\x1b[?1049h" in terminal.seen
        terminal.press(b"t")
        terminal.until("TOKENS↓")
        terminal.resize(200)
        terminal.until(" " * 120)
        assert not re.search(r"\x1b\[(\d+;)*3\dm", terminal.seen), "no colours with NO_COLOR"
        terminal.press(b"q")
        terminal.ends_restored(0)


def test_the_terminal_is_restored_before_an_error_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ANSWERS, "/version", {"unexpected": True})
    with contextlib.closing(Terminal(url)) as terminal:
        terminal.ends_restored(1)
        terminal.until("KeyError: 'version'")


@pytest.mark.parametrize("ending", ["ctrl-c", "sigterm"])
def test_it_asks_again_until_it_is_ended(ending: str) -> None:
    with contextlib.closing(Terminal("http://127.0.0.1:9")) as terminal:
        terminal.until("trying again: cannot reach http://127.0.0.1:9")
        if ending == "ctrl-c":
            terminal.press(b"\x03")
        else:
            terminal.process.send_signal(signal.SIGTERM)
        terminal.ends_restored(0)
