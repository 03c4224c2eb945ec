"""A prompt's tokens in three parts (cached, written, neither): the same on every route, in metrics and in the log."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace
from tests.platform.gateway.house import ADMIN, House

from multiflora_engine.process.token_stream import TokenStream
from multiflora_engine.protocol.requests import TokenDelta

CHAT = {"model": "sql", "messages": [{"role": "user", "content": "Say hello to everybody."}]}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"model": "sql", "prompt": ["Say hello", "to everybody."], "max_tokens": 3},
    "/v1/chat/completions": {**CHAT, "max_tokens": 3},
    "/v1/responses": {"model": "sql", "input": "Say hello to everybody.", "max_output_tokens": 3},
    "/v1/messages": {**CHAT, "max_tokens": 3},
    "/v1/embeddings": {"model": "sql", "input": ["Say hello", "to everybody."]},
    "/v1/score": {"model": "sql", "text_1": "Say hello", "text_2": ["to everybody.", "Bye."]},
}
STREAMED = ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages")
WAYS = [*((path, False) for path in BODIES), *((path, True) for path in STREAMED)]
Parts = tuple[int, int, int]


def parts(usage: dict[str, Any]) -> Parts:
    """(cached, written, neither) of a usage as OpenAI or Anthropic writes it."""
    if "cache_read_input_tokens" in usage:
        return usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"], usage["input_tokens"]
    details = usage.get("prompt_tokens_details") or usage["input_tokens_details"]
    cached, written = details["cached_tokens"], details["cache_write_tokens"]
    return cached, written, usage.get("prompt_tokens", usage.get("input_tokens")) - cached - written


def last_usage(stream: str) -> dict[str, Any]:
    """Of the last event that has one."""
    lines = [line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: {")]
    events = [event.get("response", event) for event in map(json.loads, lines)]
    found: dict[str, Any] = [event["usage"] for event in events if event.get("usage")][-1]
    return found


async def asked(house: House, path: str, *, streams: bool) -> Parts:
    if not streams:
        return parts((await house.post(path, BODIES[path])).json()["usage"])
    options = {"stream_options": {"include_usage": True}} if "completions" in path else {}
    return parts(last_usage((await house.post(path, {**BODIES[path], "stream": True, **options})).text))


async def metrics(house: House) -> Parts:
    lines = dict(line.rsplit(" ", 1) for line in (await house.http.get("/metrics")).text.splitlines())
    names = ("vllm:prompt_tokens_cached", "multiflora_prompt_tokens_cache_written", "multiflora_prompt_tokens_uncached")
    cached, written, uncached = (int(float(lines[f'{name}_total{{model_name="base"}}'])) for name in names)
    return cached, written, uncached


@pytest.mark.parametrize(("path", "streams"), WAYS)
async def test_the_parts_are_the_same_wherever_they_are_shown(house: House, path: str, streams: bool) -> None:
    shown = await asked(house, path, streams=streams)
    lengths = [len(request.prompt_token_ids) for request in house.engine.requests]
    assert shown == (
        sum(n // 2 for n in lengths),
        sum(n // 3 for n in lengths),
        sum(n - n // 2 - n // 3 for n in lengths),
    )
    assert await metrics(house) == shown
    counts = house.services.usage.counted[None, "sql"]  # type: ignore[attr-defined]
    assert (counts.prompt_tokens, counts.cached_tokens, counts.cache_write_tokens) == (sum(lengths), *shown[:2])
    headers = {"Authorization": f"Bearer {ADMIN}"}
    listed = (await house.http.get("/api/v1/requests", headers=headers)).json()["items"]
    assert tuple(sum(one[f"{name}_tokens"] for one in listed) for name in ("cached", "cache_write")) == shown[:2]


async def test_what_was_cached_and_is_added_again_is_one_part(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a preemption: the engine tells of more tokens than the prompt has."""
    push = TokenStream.push

    def rewritten(stream: TokenStream, delta: TokenDelta) -> None:
        push(stream, replace(delta, cache_write_tokens=9) if delta.cache_write_tokens else delta)

    monkeypatch.setattr(TokenStream, "push", rewritten)
    answer = await house.post("/v1/completions", {"model": "sql", "prompt": "Say hello", "max_tokens": 3})
    assert parts(answer.json()["usage"]) == (4, 5, 0) == await metrics(house)
