"""What a client with the largest allowed bodies costs others: the longest gap of a stream, the slowest health check.

Starts a server of the demo, streams one long answer after the other, and meanwhile sends bodies of 8 MB from several
connections. Prints milliseconds: without the bodies, then for each kind of body.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field

import aiohttp

KEY = "mf-benchmark-of-long-texts"
HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
SIZE = 8_000_000 - 1_000
# As many as a body may hold.
VALUES, CONTAINERS = (1 << 18) - 100, (1 << 15) - 100
CURL = ("curl", "-s", "-o", "/dev/null")


def bodies() -> dict[str, tuple[str, bytes]]:
    """(path, body) by name, each about as long as a body may be."""
    text = "The quick brown fox 12345 jumps over. " * (SIZE // 38)
    message = {"role": "user", "content": "a"}
    function = {"name": "f", "arguments": "[" + "1," * (SIZE // 2 - 200) + "1]"}
    call = {"role": "assistant", "content": "", "tool_calls": [{"id": "a", "type": "function", "function": function}]}
    return {
        "completion": ("/v1/completions", json.dumps({"model": "base", "prompt": text}).encode()),
        "completion, cut": (
            "/v1/completions",
            json.dumps({"model": "base", "prompt": text[:2_000_000], "truncate_prompt_tokens": 64}).encode(),
        ),
        "chat": (
            "/v1/chat/completions",
            json.dumps({"model": "base", "messages": [{"role": "user", "content": text}]}).encode(),
        ),
        "many messages": (
            "/v1/chat/completions",
            json.dumps({"model": "base", "messages": [message] * (SIZE // 40)}).encode(),
        ),
        "token ids": ("/v1/completions", b'{"model":"base","prompt":[' + b",".join([b"1"] * (SIZE // 2 - 50)) + b"]}"),
        "most values": ("/v1/completions", json.dumps({"model": "base", "prompt": [10_000] * VALUES}).encode()),
        "most objects": (
            "/v1/messages",
            json.dumps({"model": "base", "max_tokens": 1, "messages": [message] * CONTAINERS}).encode(),
        ),
        "many prompts": (
            "/v1/embeddings",
            json.dumps({"model": "base", "input": [[10] * 200] * 1000}).encode(),
        ),
        "bad words": ("/v1/completions", json.dumps({"model": "base", "prompt": "a", "bad_words": [text]}).encode()),
        "arguments": ("/v1/chat/completions", json.dumps({"model": "base", "messages": [message, call]}).encode()),
        "tokenize": ("/tokenize", json.dumps({"prompt": text}).encode()),
        "detokenize": ("/detokenize", b'{"tokens":[' + b",".join([b"99"] * (SIZE // 3 - 50)) + b"]}"),
        "embeddings": ("/v1/embeddings", json.dumps({"model": "base", "input": text}).encode()),
    }


@dataclass
class Watch:
    """gaps, checks: seconds."""

    gaps: list[float] = field(default_factory=list)
    checks: list[float] = field(default_factory=list)
    ended: bool = False

    async def stream(self, http: aiohttp.ClientSession) -> None:
        request = {"model": "base", "prompt": "Say", "max_tokens": 1000, "ignore_eos": True, "stream": True}
        while not self.ended:
            async with http.post("/v1/completions", json=request, headers=HEADERS) as response:
                last = None
                async for _ in response.content:
                    now = time.perf_counter()
                    if last is not None:
                        self.gaps.append(now - last)
                    last = now
                    if self.ended:
                        return

    async def check(self, http: aiohttp.ClientSession) -> None:
        while not self.ended:
            began = time.perf_counter()
            async with http.get("/health/live") as response:
                await response.read()
            self.checks.append(time.perf_counter() - began)
            await asyncio.sleep(0.02)

    def report(self) -> str:
        gap, check = (max(seconds, default=0.0) * 1e3 for seconds in (self.gaps, self.checks))
        return f"longest gap {gap:7.1f}   slowest /health/live {check:7.1f}"


async def watched(base: str, load: Awaitable[object]) -> Watch:
    """What a stream and health checks saw while the load ran."""
    watch = Watch()
    async with aiohttp.ClientSession(base) as http:
        tasks = [asyncio.create_task(watch.stream(http)), asyncio.create_task(watch.check(http))]
        await asyncio.sleep(0.5)
        watch.gaps.clear()
        watch.checks.clear()
        await load
        watch.ended = True
        await asyncio.gather(*tasks)
    return watch


async def send(url: str, body: bytes) -> int:
    """The answer's status. In a process of its own: this one's work on a body would be taken for the server's."""
    headers = [part for header in HEADERS.items() for part in ("-H", ": ".join(header))]
    process = await asyncio.create_subprocess_exec(
        *CURL, "-w", "%{http_code}", *headers, "--data-binary", "@-", url,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate(body)
    return int(out)


async def measure(base: str, connections: int, only: str | None) -> None:
    print(f"{'(nothing)':16} {(await watched(base, asyncio.sleep(3))).report()}")
    for name, (path, body) in bodies().items():
        if only in (None, name):
            answers = asyncio.gather(*(send(base + path, body) for _ in range(connections)))
            watch = await watched(base, answers)
            print(f"{name:16} {watch.report()}   answers {sorted(set(answers.result()))}", flush=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=5)
    parser.add_argument("--only", help="one kind of body")
    arguments = parser.parse_args()
    port = free_port()
    with tempfile.TemporaryDirectory() as data:
        flags = {"--port": str(port), "--data-dir": data, "--api-key": KEY, "--served-model-name": "base"}
        command = [sys.executable, "-m", "multiflora", "serve", *(part for flag in flags.items() for part in flag)]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            base = f"http://127.0.0.1:{port}"
            patience = ["--retry", "60", "--retry-delay", "1", "--retry-all-errors", "--fail"]
            subprocess.run([*CURL, *patience, base + "/health/ready"], check=True)
            asyncio.run(measure(base, arguments.connections, arguments.only))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
