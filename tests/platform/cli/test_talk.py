"""`multiflora complete` and `chat` against a server that plays answers: what is sent, what is printed, how it ends."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from multiflora_platform.cli.main import main


class Server:
    """Streams `pieces` for each request; sent: the bodies in order. refusal: an error in place of the stream."""

    def __init__(self) -> None:
        self.pieces = ["Hel", "lo\x1b[31m", "!"]
        self.sent: list[tuple[str, Any]] = []
        self.refusal: tuple[int, str] | None = None
        self.breaks = False
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def _handler(played) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200, json.dumps({"data": [{"id": "base"}, {"id": "sql"}]}))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                played.sent.append((self.path, body))
                if played.refusal is not None:
                    status, message = played.refusal
                    self._answer(status, json.dumps({"error": {"message": message}}))
                    return
                chat = self.path.endswith("/chat/completions")
                chunks: list[Any] = [
                    {"choices": [{"delta": {"content": piece}} if chat else {"text": piece}]} for piece in played.pieces
                ]
                ends = [{"error": {"message": "the engine died"}}] if played.breaks else [{"choices": []}]
                lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks + ends]
                self._answer(200, "".join(lines) + ("" if played.breaks else "data: [DONE]\n\n"))

            def _answer(self, status: int, text: str) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    played = Server()
    monkeypatch.setenv("MULTIFLORA_URL", played.url)
    thread = threading.Thread(target=played.http.serve_forever)
    thread.start()
    yield played
    played.http.shutdown()
    played.http.server_close()
    thread.join()


def test_a_quick_completion(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["complete", "-q", "Once", "--max-tokens", "7"]) == 0
    assert capsys.readouterr().out == "Hello[31m!\n"
    assert server.sent == [
        ("/v1/completions", {"model": "base", "prompt": "Once", "max_tokens": 7, "stream": True}),
    ]


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_the_url_may_be_vllms(server: Server, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    assert main(["chat", "--url", server.url + suffix, "--quick", "hi", "--model-name", "sql"]) == 0
    ((path, body),) = server.sent
    assert (path, body["model"]) == ("/v1/chat/completions", "sql")


def test_a_conversation_remembers_and_ends_with_its_input(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("first\n\nsecond\n"))
    assert main(["chat", "--system-prompt", "Be brief."]) == 0
    assert capsys.readouterr().out == "Hello[31m!\n" * 2
    assert server.sent[1][1]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "Hello\x1b[31m!"},
        {"role": "user", "content": "second"},
    ]


def test_what_the_server_refuses_or_breaks_off_is_told(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.refusal = (404, "The model 'x' does not exist")
    assert main(["complete", "-q", "a", "--model-name", "x"]) == 1
    assert capsys.readouterr().err == "multiflora: The model 'x' does not exist\n"
    server.refusal = (401, "Wrong key")
    assert main(["chat", "-q", "a", "--model-name", "x"]) == 1
    assert "give --api-key or set MULTIFLORA_API_KEY" in capsys.readouterr().err
    server.refusal, server.breaks = None, True
    assert main(["chat", "-q", "a"]) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("Hello")
    assert "the engine died" in printed.err


def test_no_server_is_unreachable() -> None:
    assert main(["chat", "-q", "a", "--url", "http://127.0.0.1:9"]) == 4
