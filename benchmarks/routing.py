"""Which replica gets a request, by policy: what is found in the caches, and how soon the first tokens come.

Starts the demo with two engines for each policy in turn and sends the same trace: contexts by Zipf's law, adapters, a
few new tokens behind each context. The caches hold about half of what the trace asks for. Prints cached tokens and the
mean and 95th percentile of the time to the first token; beside them what the simulation says, told what steps, prompts
and answers cost here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b

import aiohttp

from long_texts import free_port
from multiflora_engine.protocol.traced_request import TracedRequest
from multiflora_platform.fleet_simulation.run import Plan, simulate
from multiflora_platform.fleet_simulation.simulated_engine import Costs, EngineShape

KEY = "mf-benchmark-of-routing"
HEADERS = {"Authorization": f"Bearer {KEY}"}
POLICIES = ("round-robin", "least-loaded", "score")
# Of the demo: 64 KiB each.
BLOCK_BYTES, BLOCKS, BLOCK_TOKENS = 65_536, 260, 16
MODELS = ("extract", "pirate", "redact", "sql", "tools", "multiflora-demo")
CONTEXTS, CONTEXT_TOKENS, NEW_TOKENS, OUTPUT_TOKENS = 18, 512, 48, 8
VOCABULARY = range(300, 1100)
FIRST_USES = 4


@dataclass(frozen=True)
class Asked:
    """seconds: to the first token; rest: from there to the last."""

    cached: int
    seconds: float
    rest: float


def trace(requests: int) -> list[tuple[str, list[int]]]:
    """(model, prompt) of each."""
    rng = random.Random(1)
    contexts = [rng.choices(VOCABULARY, k=CONTEXT_TOKENS) for _ in range(CONTEXTS)]
    models = [MODELS[number % len(MODELS)] for number in range(CONTEXTS)]
    weights = [1 / (rank + 1) for rank in range(CONTEXTS)]
    chosen = rng.choices(range(CONTEXTS), weights, k=requests)
    return [(models[number], contexts[number] + rng.choices(VOCABULARY, k=NEW_TOKENS)) for number in chosen]


def adapter_of(model: str) -> int:
    """Its number in a trace; the last name is the base model's."""
    return (MODELS.index(model) + 1) % len(MODELS)


def first_uses() -> list[TracedRequest]:
    """What `run` asks of each model before the clock runs, for the simulation."""
    asked = [model for model in MODELS for _ in range(FIRST_USES)]
    return [
        TracedRequest([], 0, 0, False, number - 100.0, 1, OUTPUT_TOKENS, adapter_of(model))
        for number, model in enumerate(asked)
    ]


def traced(requests: int, rate: float) -> list[TracedRequest]:
    """The same, for the simulation: a block's digits are its tokens and all before them."""
    made = []
    for number, (model, prompt) in enumerate(trace(requests)):
        ends = range(BLOCK_TOKENS, len(prompt) + 1, BLOCK_TOKENS)
        blocks = [blake2b(f"{model}{prompt[:end]}".encode(), digest_size=8).hexdigest() for end in ends]
        found = (len(prompt) - 1) // BLOCK_TOKENS
        at = number / rate
        made.append(TracedRequest(blocks, found, 0, False, at, len(prompt), OUTPUT_TOKENS, adapter_of(model)))
    return made


async def ask(http: aiohttp.ClientSession, model: str, prompt: list[int], output_tokens: int = OUTPUT_TOKENS) -> Asked:
    body = {
        "model": model, "prompt": prompt, "max_tokens": output_tokens, "temperature": 0, "ignore_eos": True,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    began = time.perf_counter()
    first, cached = None, 0
    async with http.post("/v1/completions", json=body, headers=HEADERS) as response:
        response.raise_for_status()
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            first = first or time.perf_counter()
            usage = json.loads(line[6:]).get("usage")
            cached = usage["prompt_tokens_details"]["cached_tokens"] if usage else cached
    assert first is not None
    return Asked(cached, first - began, time.perf_counter() - first)


async def costs(url: str) -> Costs:
    """Of one engine: from two lengths of prompts, and answers alone and eight at a time. Medians of five."""
    rng = random.Random(2)

    def prompt(tokens: int) -> list[int]:
        return rng.choices(VOCABULARY, k=tokens)

    async def answers(http: aiohttp.ClientSession, count: int) -> float:
        """Seconds of a step that goes on with so many on one replica; half of twice as many are on the other."""
        asked = await asyncio.gather(*(ask(http, MODELS[-1], prompt(16), 64) for _ in range(2 * count)))
        return statistics.median(one.rest for one in asked) / 63

    async with aiohttp.ClientSession(url) as http:
        short, long = [
            statistics.median([(await ask(http, MODELS[-1], prompt(tokens))).seconds for _ in range(5)])
            for tokens in (100, 900)
        ]
        alone, eight = [statistics.median([await answers(http, count) for _ in range(5)]) for count in (1, 8)]
    prompt_seconds, answer_seconds = (long - short) / 800, (eight - alone) / 7
    step = alone - answer_seconds
    front = max(0.0, short - 100 * prompt_seconds - step)
    return Costs(step=step, prompt=prompt_seconds, answer=answer_seconds, front=front)


async def run(url: str, requests: int, rate: float) -> list[Asked]:
    timeout = aiohttp.ClientTimeout(600)
    async with aiohttp.ClientSession(url, timeout=timeout) as http:
        for model in MODELS:
            # Adapters are on their replicas before the clock runs.
            await asyncio.gather(*(ask(http, model, [300 + number]) for number in range(FIRST_USES)))
        began = asyncio.get_running_loop().time()
        tasks = []
        for number, (model, prompt) in enumerate(trace(requests)):
            await asyncio.sleep(max(0.0, began + number / rate - asyncio.get_running_loop().time()))
            tasks.append(asyncio.ensure_future(ask(http, model, prompt)))
        return await asyncio.gather(*tasks)


@contextmanager
def served(policy: str) -> Iterator[str]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        place = ["--port", str(port), "--data-dir", folder, "--api-key", KEY]
        fleet = ["--replicas", "2", "--routing", policy, "--kv-cache-memory", str(BLOCKS * BLOCK_BYTES)]
        command = [sys.executable, "-m", "multiflora", "serve", *place, *fleet]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            asyncio.run(_until_ready(f"http://127.0.0.1:{port}"))
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


async def _until_ready(url: str) -> None:
    async with aiohttp.ClientSession(url) as http:
        while True:
            try:
                async with http.get("/health/ready") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=120)
    parser.add_argument("--rate", type=float, default=12.0, help="requests a second (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    prompts = options.requests * (CONTEXT_TOKENS + NEW_TOKENS)
    results: dict[str, list[tuple[float, float, float]]] = {policy: [] for policy in POLICIES}
    with served("score") as url:
        measured = asyncio.run(costs(url))
    print(
        f"a step {measured.step * 1e3:.2f} ms, a prompt token {measured.prompt * 1e3:.3f} ms, "
        f"an answer's {measured.answer * 1e3:.2f} ms, the way there and back {measured.front * 1e3:.1f} ms"
    )
    for _ in range(options.rounds):
        for policy in POLICIES:
            with served(policy) as url:
                asked = asyncio.run(run(url, options.requests, options.rate))
            times = sorted(one.seconds * 1000 for one in asked)
            cached = sum(one.cached for one in asked) / prompts
            row = (cached, statistics.mean(times), times[int(0.95 * len(times))])
            results[policy].append(row)
            print(f"{policy:>12}: {row[0]:.0%} cached, first token {row[1]:.0f} ms, p95 {row[2]:.0f} ms", flush=True)
    middle = {
        policy: [statistics.median(column) for column in zip(*rows, strict=True)] for policy, rows in results.items()
    }
    for policy, (cached, mean, p95) in middle.items():
        plan = Plan(2, EngineShape(BLOCKS, BLOCK_TOKENS), measured, policy)
        before = first_uses()
        simulated = simulate([*before, *traced(options.requests, options.rate)], plan)
        del simulated.first_seconds[: len(before)]
        print(
            f"{policy:>12}: {cached:.0%} cached, first token {mean:.0f} ms, p95 {p95:.0f} ms; simulated "
            f"{simulated.cached_share:.0%}, {simulated.mean * 1e3:.0f} ms, {simulated.percentile(95) * 1e3:.0f} ms"
        )
    base, score = middle["round-robin"], middle["score"]
    print(f"score beside round-robin, medians: cached {score[0] / base[0]:.2f}x, p95 {score[2] / base[2]:.2f}x")


if __name__ == "__main__":
    main()
