"""nginx with the configuration that is delivered, in front of two servers: what passes when, and how much of it."""

from __future__ import annotations

import os
import shutil
import socket
import string
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

import httpx
import pytest

TEMPLATE = Path(__file__).parents[2] / "deploy/nginx/server.conf.template"
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
BURST = 30
pytestmark = pytest.mark.skipif(NGINX is None, reason="needs nginx")


@dataclass
class Upstream:
    """A server that streams its answer in two parts, the second when the test says so. dies: it closes instead, before
    its answer or after the first part."""

    dies: Literal["", "before", "after"] = ""
    asked: list[str] = field(default_factory=list)
    second_part: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                upstream.asked.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                upstream.asked.append(self.path)
                if upstream.dies == "before":
                    self.die()
                    return
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(b"5\r\nfirst\r\n")
                upstream.second_part.wait(30)
                if upstream.dies == "after":
                    self.die()
                    return
                self.wfile.write(b"6\r\nsecond\r\n0\r\n\r\n")

            def die(self) -> None:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self.second_part.set()
        self.server.shutdown()
        self.server.server_close()


@dataclass
class Proxy:
    http: httpx.Client
    first: Upstream
    second: Upstream

    def asked(self) -> int:
        return len(self.first.asked) + len(self.second.asked)


def nginx_configuration(folder: Path, site: str) -> Path:
    """A file that nginx is started with to serve the site from a folder of its own, in the foreground."""
    (folder / "site.conf").write_text(site, encoding="utf-8")
    paths = "\n".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = f"""
        daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;
        events {{}}
        http {{ access_log off; {paths} include {folder}/site.conf; }}
    """
    (folder / "nginx.conf").write_text(main, encoding="utf-8")
    return folder / "nginx.conf"


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    first, second = Upstream(), Upstream()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # One request in a long while beyond the burst: the machine's pace decides nothing.
    site = string.Template(TEMPLATE.read_text(encoding="utf-8")).safe_substitute(
        NGINX_PORT=f"127.0.0.1:{port}",
        NGINX_RATE="1r/m",
        NGINX_BURST=str(BURST),
        NGINX_SERVERS=" ".join(f"server 127.0.0.1:{upstream.port};" for upstream in (first, second)),
    )
    configuration = nginx_configuration(tmp_path, site)
    assert NGINX is not None
    process = subprocess.Popen([NGINX, "-p", str(tmp_path), "-e", "stderr", "-c", str(configuration)])
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            _wait_for(http, process)
            for upstream in (first, second):
                upstream.asked.clear()
            yield Proxy(http, first, second)
    finally:
        process.terminate()
        process.wait(30)
        first.stop()
        second.stop()


def _wait_for(http: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            http.get("/health/live")
        except httpx.TransportError:
            time.sleep(0.02)
        else:
            return
    pytest.fail("nginx does not take the configuration")


def test_an_answer_passes_part_by_part(proxy: Proxy) -> None:
    with proxy.http.stream("POST", "/v1/chat/completions", content=b"{}") as response:
        parts = response.iter_raw()
        assert next(parts) == b"first"
        # Only now is there anything more to pass on.
        proxy.first.second_part.set()
        proxy.second.second_part.set()
        assert b"".join(parts) == b"second"


def test_a_client_beyond_its_rate_is_told_in_the_api_s_words_and_probes_pass(proxy: Proxy) -> None:
    answers = [proxy.http.get("/v1/models") for _ in range(BURST + 5)]
    assert [answer.status_code for answer in answers] == [200] * (BURST + 1) + [429] * 4
    assert answers[-1].json()["error"]["code"] == "rate_limit_exceeded"
    assert answers[-1].headers["retry-after"] == "1"
    assert proxy.http.get("/health/live").status_code == 200
    assert proxy.http.get("/metrics").status_code == 200


def test_another_server_answers_when_one_fails_before_its_first_byte(proxy: Proxy) -> None:
    proxy.first.dies = "before"
    proxy.first.second_part.set()
    proxy.second.second_part.set()
    answers = [proxy.http.post("/v1/completions", content=b"{}") for _ in range(4)]
    assert [answer.content for answer in answers] == [b"firstsecond"] * 4
    assert proxy.first.asked, "or nothing failed"


def test_an_answer_that_has_begun_is_not_asked_for_again(proxy: Proxy) -> None:
    for upstream in (proxy.first, proxy.second):
        upstream.dies = "after"
        upstream.second_part.set()
    with proxy.http.stream("POST", "/v1/completions", content=b"{}") as response:
        parts = response.iter_raw()
        assert next(parts) == b"first"
        with pytest.raises(httpx.RemoteProtocolError):
            next(parts)
    assert proxy.asked() == 1


def test_a_change_is_never_sent_twice(proxy: Proxy) -> None:
    proxy.first.dies = proxy.second.dies = "before"
    answer = proxy.http.post("/api/v1/adapters", content=b"{}")
    assert answer.status_code == 502
    assert proxy.asked() == 1


def test_both_servers_are_asked(proxy: Proxy) -> None:
    for _ in range(8):
        proxy.http.get("/v1/models")
    assert proxy.first.asked
    assert proxy.second.asked
