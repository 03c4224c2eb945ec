"""What the gateway's own process spends on many streams at once: CPU per token and per request, fairness, memory.

    python benchmarks/gateway.py [--streams 256] [--tokens 60] [--rounds 4]

CPU time, not wall time: the engine and this load generator share the machine. It is the whole process's, the kernel's
share of sending included. Serves the bundled demo.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import psutil

KEY = "benchmark"
MODELS = ("multiflora-demo", "sql", "pirate", "extract")


@dataclass
class Stream:
    """One answer as its client saw it; times are seconds, `longest_gap` between two events."""

    events: int = 0
    tokens: int = 0
    last: float = 0.0
    longest_gap: float = 0.0

    def take(self, event: dict[str, Any]) -> None:
        now = time.perf_counter()
        if self.events:
            self.longest_gap = max(self.longest_gap, now - self.last)
        self.events, self.last = self.events + 1, now
        self.tokens += sum(len(choice["token_ids"]) for choice in event["choices"])


@contextmanager
def demo() -> Iterator[tuple[psutil.Process, str]]:
    """(the gateway's process, its URL)."""
    with tempfile.TemporaryDirectory() as data:
        command = [
            *(sys.executable, "-m", "multiflora", "serve", "--port", "0", "--data-dir", data, "--api-key", KEY),
            *("--max-num-seqs", "256", "--kv-cache-memory", str(800 << 20), "--log-level", "warning"),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            urls = (re.search(r"(http://127\.0\.0\.1:\d+)/v1", line) for line in process.stdout)
            try:
                yield psutil.Process(process.pid), next(found[1] for found in urls if found)
            finally:
                process.terminate()


async def load(url: str, streams: int, tokens: int) -> list[Stream]:
    """All at once, each of exactly `tokens` tokens, spread over the base and three adapters."""

    async def one(session: aiohttp.ClientSession, number: int) -> Stream:
        body = {
            "model": MODELS[number % len(MODELS)],
            "prompt": f"Tell me about number {number}.",
            "max_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "return_token_ids": True,
        }
        stream = Stream()
        async with session.post(f"{url}/v1/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.content:
                if line.startswith(b"data: {"):
                    stream.take(json.loads(line[6:]))
        return stream

    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:
        return list(await asyncio.gather(*(one(session, number) for number in range(streams))))


def measure(process: psutil.Process, url: str, streams: int, tokens: int) -> dict[str, float]:
    """One round. cpu: seconds of the gateway's process."""
    before, began = process.cpu_times(), time.perf_counter()
    done = asyncio.run(load(url, streams, tokens))
    wall, after = time.perf_counter() - began, process.cpu_times()
    cpu = after.user + after.system - before.user - before.system
    total = sum(stream.tokens for stream in done)
    if any(stream.tokens != tokens for stream in done):
        raise SystemExit("a stream did not get all of its tokens")
    return {
        "streams": streams,
        "tokens": total,
        "tokens_per_second": round(total / wall, 1),
        "gateway_cpu": round(cpu, 3),
        "longest_gap": round(max(stream.longest_gap for stream in done), 3),
        "memory_mb": process.memory_info().rss >> 20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    with demo() as (process, url):
        measure(process, url, arguments.streams, 2)  # connections, caches and adapters are there from here on
        short = measure(process, url, arguments.streams, 1)
        rows = [measure(process, url, arguments.streams, arguments.tokens) for _ in range(arguments.rounds)]
    for row in (short, *rows):
        print(json.dumps(row))
    cpu = sum(row["gateway_cpu"] for row in rows) / len(rows)
    per_token = (cpu - short["gateway_cpu"]) / (rows[0]["tokens"] - short["tokens"])
    print(f"per request and its first token: {short['gateway_cpu'] / arguments.streams * 1e3:.2f} ms of CPU")
    print(f"per further token: {per_token * 1e6:.0f} us of CPU; {per_token * 1e3:.1%} of a core at 1,000 tokens/s")


if __name__ == "__main__":
    main()
