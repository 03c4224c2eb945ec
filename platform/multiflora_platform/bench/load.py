"""A streaming load on a running server: token-id prompts, greedy, time to first token and throughput per model."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from multiflora_platform.cli.errors import CommandError, ExitCode

FIRST_PLAIN_TOKEN = 300


@dataclass(frozen=True)
class Load:
    """What to send. Token ids are drawn at random below `vocabulary`, the first `shared_tokens` equal in all prompts."""

    models: tuple[str, ...] = ()
    requests: int = 32
    concurrency: int = 32
    prompt_tokens: int = 128
    shared_tokens: int = 0
    output_tokens: int = 64
    seed: int = 0


@dataclass
class Sample:
    """One finished request; times in seconds."""

    model: str
    ttft: float
    latency: float
    completion_tokens: int
    cached_tokens: int


@dataclass
class Client:
    http: httpx.AsyncClient
    limit: asyncio.Semaphore
    samples: list[Sample] = field(default_factory=list)

    async def complete(self, model: str, prompt: list[int], tokens: int) -> None:
        body = {
            "model": model,
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        async with self.limit:
            start = time.perf_counter()
            first: float | None = None
            usage: dict[str, Any] = {}
            async with self.http.stream("POST", "/v1/completions", json=body) as response:
                if response.is_error:
                    raise CommandError(f"{model}: {response.status_code} {(await response.aread()).decode()[:300]}")
                async for line in response.aiter_lines():
                    if not line.startswith("data: {"):
                        continue
                    event = json.loads(line[6:])
                    if "error" in event:
                        raise CommandError(f"{model}: {event['error']['message']}")
                    if event["choices"] and first is None:
                        first = time.perf_counter()
                    usage = event.get("usage") or usage
            end = time.perf_counter()
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
            self.samples.append(Sample(model, (first or end) - start, end - start, usage["completion_tokens"], cached))


def measure(url: str, api_key: str | None, load: Load) -> list[dict[str, Any]]:
    """One row for all requests and one per model. Raises CommandError when the server refuses or cannot be reached."""
    return asyncio.run(_measure(url, api_key, load))


async def _measure(url: str, api_key: str | None, load: Load) -> list[dict[str, Any]]:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=1800, limits=limits) as http:
        try:
            models = load.models or await _models(http)
            client = Client(http, asyncio.Semaphore(load.concurrency))
            prompts = _prompts(load, await _vocabulary(http))
            start = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                for number, prompt in enumerate(prompts):
                    group.create_task(client.complete(models[number % len(models)], prompt, load.output_tokens))
            wall = time.perf_counter() - start
        except* httpx.TransportError as failures:
            raise CommandError(f"cannot reach {url}: {failures.exceptions[0]}", ExitCode.UNREACHABLE) from None
        except* CommandError as failures:
            raise failures.exceptions[0] from None
    rows = [_row("all", client.samples, wall)]
    return rows + [_row(name, [s for s in client.samples if s.model == name], wall) for name in models]


async def _models(http: httpx.AsyncClient) -> tuple[str, ...]:
    response = await http.get("/v1/models")
    if response.is_error:
        raise CommandError(f"/v1/models answered {response.status_code}: {response.text[:200]}")
    return tuple(model["id"] for model in response.json()["data"])


async def _vocabulary(http: httpx.AsyncClient) -> int:
    response = await http.get("/tokenizer_info")
    return int(response.json().get("vocab_size", 1000)) if response.is_success else 1000


def _prompts(load: Load, vocabulary: int) -> list[list[int]]:
    rng = random.Random(load.seed)
    low = min(FIRST_PLAIN_TOKEN, vocabulary // 2)
    shared = [rng.randrange(low, vocabulary) for _ in range(load.shared_tokens)]
    own = load.prompt_tokens - load.shared_tokens
    return [shared + [rng.randrange(low, vocabulary) for _ in range(own)] for _ in range(load.requests)]


def _row(name: str, samples: list[Sample], wall: float) -> dict[str, Any]:
    ttft = sorted(sample.ttft for sample in samples) or [0.0]
    tokens = sum(sample.completion_tokens for sample in samples)
    return {
        "model": name,
        "requests": len(samples),
        "tokens/s": round(tokens / wall, 1),
        "ttft p50 s": round(statistics.median(ttft), 3),
        "ttft max s": round(ttft[-1], 3),
        "latency p50 s": round(statistics.median([s.latency for s in samples] or [0.0]), 3),
        "cached tokens": sum(sample.cached_tokens for sample in samples),
    }
