"""An answer that explains its own prompt: asked for as OpenAI's and Anthropic's clients do, whole and streamed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.platform.gateway.house import OTHER, TENANT, House

RULES = "Today is 2026-11-{day}. Answer in one short sentence."
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
HELLO = {"role": "user", "content": "Say hello."}


def body(path: str, day: int, compare: str | None) -> dict[str, Any]:
    rules = RULES.format(day=day)
    asked: dict[str, Any] = {"model": "sql"}
    if path == MESSAGES:
        asked |= {"system": rules, "messages": [HELLO], "max_tokens": 3}
        return asked | ({"diagnostics": {"previous_message_id": compare}} if compare else {})
    asked |= {"messages": [{"role": "system", "content": rules}, HELLO]} if path == CHAT else {}
    asked |= {"instructions": rules, "input": "Say hello."} if path == RESPONSES else {}
    return asked | ({"prompt_cache_options": {"comparison_response_id": compare}} if compare else {})


async def answer(house: House, asked: dict[str, Any], path: str, key: str, *, stream: bool) -> dict[str, Any]:
    """Its id and, if any, its diagnostics."""
    response = await house.post(path, {**asked, "stream": stream}, Authorization=f"Bearer {key}")
    assert response.status_code == 200, response.text
    if not stream:
        return told(response.json())
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: {")]
    events = [json.loads(line) for line in lines]
    found = {}
    for event in (event.get("response") or event.get("message") or event for event in events):
        found |= told(event)
    return found


def told(event: dict[str, Any]) -> dict[str, Any]:
    names = {"id": "id", "prompt_cache_diagnostics": "diagnostics", "diagnostics": "diagnostics"}
    return {names[name]: value for name, value in event.items() if name in names}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
async def test_an_answer_explains_what_its_prompt_missed(house: House, path: str, stream: bool) -> None:
    first = await answer(house, body(path, 29, None), path, TENANT, stream=stream)
    assert "diagnostics" not in first
    second = await answer(house, body(path, 30, first["id"]), path, TENANT, stream=stream)
    found, prompt = second["diagnostics"], house.engine.requests[-1].prompt_token_ids
    difference = found["first_difference"]
    assert (found["prompt_tokens"], found["cached_tokens"]) == (len(prompt), len(prompt) // 2)
    assert (found["cause"], difference["message"], difference["role"]) == ("timestamp", 0, "system")
    assert difference["token"] == 1 + len("Today is 2026-11-")
    assert (difference["theirs"][:4], difference["ours"][:4]) == ("29. ", "30. ")


async def test_another_tenants_answer_is_compared_with_nothing(house: House) -> None:
    first = await answer(house, body(CHAT, 29, None), CHAT, TENANT, stream=False)
    second = await answer(house, body(CHAT, 30, first["id"]), CHAT, OTHER, stream=False)
    assert (second["diagnostics"]["cause"], second["diagnostics"]["first_difference"]) == ("first_seen", None)


async def test_what_the_engine_says_comes_first(house: House) -> None:
    first = await answer(house, body(CHAT, 29, None), CHAT, TENANT, stream=False)
    for reason in ("evicted", "whole_prompt_asked"):
        house.engine.miss_reason = reason
        again = await answer(house, body(CHAT, 29, first["id"]), CHAT, TENANT, stream=False)
        assert again["diagnostics"]["cause"] == reason
