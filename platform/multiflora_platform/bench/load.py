"""A streaming load on a running server: token-id prompts, greedy, end-of-sequence ignored, one sample per request.

Knows only the OpenAI API, so that any compatible server can be measured with it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from multiflora_platform.exit_codes import CommandError, ExitCode


@dataclass(frozen=True)
class LoadRequest:
    """prompt: token ids. at: seconds after the start; None is at once."""

    model: str
    prompt: Sequence[int]
    max_tokens: int
    at: float | None = None


@dataclass(frozen=True)
class Sample:
    """One finished request. ttft and latency are seconds since the request was due."""

    model: str
    ttft: float
    latency: float
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class Run:
    """wall: seconds from the first request to the last answer."""

    samples: tuple[Sample, ...]
    wall: float

    @property
    def tokens_per_second(self) -> float:
        return sum(sample.completion_tokens for sample in self.samples) / self.wall


def run_load(url: str, api_key: str | None, requests: Sequence[LoadRequest], concurrency: int) -> Run:
    """Send all requests and wait for their answers. Raises CommandError when the server refuses or is not there."""
    return asyncio.run(_run(url, api_key, requests, concurrency))


async def _run(url: str, api_key: str | None, requests: Sequence[LoadRequest], concurrency: int) -> Run:
    async with _session(url, api_key) as http:
        limit = asyncio.Semaphore(concurrency)
        start = time.perf_counter()
        try:
            samples = await asyncio.gather(*(_complete(http, limit, request, start) for request in requests))
        except aiohttp.ClientConnectionError as error:
            raise CommandError(f"cannot reach {url}: {error}", ExitCode.UNREACHABLE) from None
        return Run(tuple(samples), time.perf_counter() - start)


def _session(url: str, api_key: str | None) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        url,
        headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
        timeout=aiohttp.ClientTimeout(total=1800),
        connector=aiohttp.TCPConnector(limit=0),
    )


async def _complete(
    http: aiohttp.ClientSession, limit: asyncio.Semaphore, request: LoadRequest, start: float
) -> Sample:
    if request.at is not None:
        await asyncio.sleep(start + request.at - time.perf_counter())
    due = time.perf_counter() if request.at is not None else start
    body = {
        "model": request.model,
        "prompt": list(request.prompt),
        "max_tokens": request.max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    async with limit, http.post("/v1/completions", json=body) as response:
        if response.status != 200:
            raise CommandError(f"{request.model}: {response.status} {(await response.text())[:300]}")
        first, usage = await _read(response)
    details = usage.get("prompt_tokens_details") or {}
    end = time.perf_counter()
    return Sample(
        model=request.model,
        ttft=(first or end) - due,
        latency=end - due,
        completion_tokens=usage["completion_tokens"],
        cached_tokens=details.get("cached_tokens", 0),
    )


async def _read(response: aiohttp.ClientResponse) -> tuple[float | None, dict[str, Any]]:
    """The time of the first token and the usage of one stream."""
    first: float | None = None
    usage: dict[str, Any] = {}
    async for line in response.content:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if "error" in event:
            raise CommandError(f"the stream ended with {event['error']['message']}")
        if event["choices"] and first is None:
            first = time.perf_counter()
        usage = event.get("usage") or usage
    return first, usage


async def _get(url: str, api_key: str | None, path: str) -> Any:
    async with _session(url, api_key) as http:
        try:
            async with http.get(path) as response:
                if response.status != 200:
                    raise CommandError(f"{path} answered {response.status}: {(await response.text())[:200]}")
                return await response.json()
        except aiohttp.ClientConnectionError as error:
            raise CommandError(f"cannot reach {url}: {error}", ExitCode.UNREACHABLE) from None


def get(url: str, api_key: str | None, path: str) -> Any:
    """One GET of the server's JSON."""
    return asyncio.run(_get(url, api_key, path))
