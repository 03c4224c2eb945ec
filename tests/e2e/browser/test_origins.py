"""A page of another origin calls the API from a real browser: where it is allowed, and where it is not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from tests.e2e.conftest import serving

pytestmark = pytest.mark.slow

ASKS = """async ([url, key]) => {
  const headers = {Authorization: `Bearer ${key}`, "Content-Type": "application/json"};
  const body = JSON.stringify({model: "sql", max_tokens: 2, messages: [{role: "user", content: "Hi"}]});
  try {
    const answer = await fetch(`${url}/v1/chat/completions`, {method: "POST", headers, body});
    return [answer.status, answer.headers.has("x-request-id")];
  } catch (error) {
    return error.name;
  }
}"""


class Page(BaseHTTPRequestHandler):
    """An empty page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def origins() -> Iterator[list[str]]:
    """Two web servers, each an origin of its own."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Page) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield [f"http://127.0.0.1:{server.server_port}" for server in servers]
    for server in servers:
        server.shutdown()
        server.server_close()


def test_only_pages_of_allowed_origins_read_answers(chromium: Browser, origins: list[str], tmp_path: Path) -> None:
    allowed, foreign = origins
    with serving(tmp_path, "--allowed-origins", allowed) as server:
        page = chromium.new_page()
        page.goto(allowed)
        assert page.evaluate(ASKS, [server.url, server.key]) == [200, True]
        page.goto(foreign)
        assert page.evaluate(ASKS, [server.url, server.key]) == "TypeError"
        page.goto(server.url)
        assert page.url == f"{server.url}/ui/"
        page.close()
