"""Real servers for end-to-end tests: `multiflora serve` in processes of their own, on free ports."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, chdir, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import openai
import pytest

ROOT = Path(__file__).parents[2]
KEY = "e2e-admin-key"
START_SECONDS = 120
# Other servers and tests share the cores; on few of them a second thread makes an answer cost a quarter more.
ONE_THREAD = ("--num-threads", "1")


@dataclass
class Server:
    """A running `multiflora serve`. output collects what it printed."""

    process: subprocess.Popen[str]
    url: str
    key: str = KEY
    output: list[str] = field(default_factory=list)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=120)

    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0)

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        with self.http() as http:
            lines = http.get("/metrics").text.splitlines()
        values = [line.rsplit(" ", 1)[1] for line in lines if re.match(rf"{re.escape(name)}(\{{|\s)", line)]
        assert values, f"no metric {name}"
        return sum(map(float, values))

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def serving(
    data_dir: Path, *arguments: str, entry: Sequence[str] = ("multiflora", "serve"), within: Sequence[str] = ()
) -> Iterator[Server]:
    """Start `multiflora serve ARGUMENTS` and stop it at the end. Fails with its output when it does not come up.

    entry: the module to run, and its first arguments. within: a command that becomes the one behind it.
    """
    command = [
        *within,
        sys.executable,
        "-m",
        *entry,
        "--port",
        "0",
        "--data-dir",
        str(data_dir),
        "--api-key",
        KEY,
    ]
    process = subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    server = Server(process, url="")
    ready = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            server.output.append(line)
            if found := re.search(r"(http://[\w.:\[\]]+?:\d+)/v1", line):
                server.url = server.url or found[1]
                ready.set()
        ready.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        ready.wait(START_SECONDS)
        if not server.url:
            process.kill()
            pytest.fail(f"the server did not start:\n{''.join(server.output)}")
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()
        reader.join(10)
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The bundled demo, shared by all tests that leave it as they found it."""
    with serving(tmp_path_factory.mktemp("demo"), *ONE_THREAD) as server:
        yield server


@pytest.fixture(scope="session")
def three_adapters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server that docs/migrating.md starts, in the repository's folder; shared by tests that put back what they
    change."""
    modules = [f"{name}=examples/demo/adapters/{name}" for name in ("sql", "pirate", "tools")]
    start = ["examples/demo/base", "--allow-source-root", "examples/demo/adapters", "--lora-modules", *modules]
    with ExitStack() as stack:
        with chdir(ROOT):
            server = stack.enter_context(serving(tmp_path_factory.mktemp("three"), *start, *ONE_THREAD))
        yield server


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts further servers: serve("--max-loras", "1"). They share one data folder within a test."""
    with ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(serving(tmp_path / "data", *ONE_THREAD, *arguments))
