"""Marks in requests hold what stands before them, for their time and within the budget; none is ever an error."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace
from tests.platform.gateway.background.conftest import BLOCK, RULES, ContextHouse

from multiflora_platform.gateway.background import breakpoint_holds
from multiflora_platform.gateway.prompting import breakpoints

MARK = {"cache_control": {"type": "ephemeral"}}
HOUR = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
ASKED = [{"role": "user", "content": "Hello, and what do the rules say?"}]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(breakpoint_holds, "time", clock)
    return clock


async def ask(contexts: ContextHouse, path: str = "messages", **body: Any) -> Any:
    """Once what was marked is held, or not."""
    asked = {"model": "base", "max_tokens": 1, "messages": ASKED, **body}
    answer = await contexts.acme.post(f"/v1/{path}", json=asked)
    assert answer.status_code == 200, answer.text
    holds = contexts.kept.breakpoints
    while holds._tasks:
        for task in list(holds._tasks):
            await task
    return answer.json()


def held_blocks(contexts: ContextHouse) -> list[int]:
    holds = contexts.kept.holds._holds.values()
    return sorted(hold.blocks for hold in holds)


def user(content: str, mark: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [text(content, mark)]}


def text(content: str, mark: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "text", "text": content, **(mark or {})}


async def test_what_stands_before_the_mark_is_held_for_its_time(contexts: ContextHouse, clock: Clock) -> None:
    plain = await ask(contexts)
    assert not contexts.cache.pins
    assert plain["usage"]["cache_creation"]["ephemeral_1h_input_tokens"] == 0
    await ask(contexts, system=[text(RULES, MARK)])
    (blocks,) = held_blocks(contexts)
    assert blocks == (len(f"<>{RULES}<>") // BLOCK), "special tokens are one each"
    clock.now += 299
    await ask(contexts, system=[text(RULES, MARK)], messages=[{"role": "user", "content": "More?"}])
    for seconds, is_held in ((299, True), (2, False)):
        clock.now += seconds
        await contexts.keeper.tend()
        assert bool(contexts.cache.pins) == is_held


async def test_marks_of_an_hour_are_counted_apart(contexts: ContextHouse, clock: Clock) -> None:
    used = (
        await ask(contexts, system=[text(RULES, HOUR)], messages=[{"role": "user", "content": [text("x" * 50, MARK)]}])
    )["usage"]
    assert len(held_blocks(contexts)) == 2
    created = used["cache_creation"]
    assert sum(created.values()) == used["cache_creation_input_tokens"]
    request = contexts.house.engine.requests[-1]
    ids, before = request.prompt_token_ids, 2 + len(RULES)
    cached, written = len(ids) // 2, len(ids) // 3
    assert created["ephemeral_1h_input_tokens"] == min(max(0, before + 1 - cached), written)
    clock.now += 301
    await contexts.keeper.tend()
    assert held_blocks(contexts) == [before // BLOCK]


async def test_a_conversation_that_goes_on_holds_itself_once(contexts: ContextHouse, clock: Clock) -> None:
    turns: list[dict[str, Any]] = []
    for number in range(3):
        turns.append({"role": "user", "content": [text(f"{number} " * 20, MARK)]})
        await ask(contexts, messages=turns)
        assert len(held_blocks(contexts)) == 1
        turns.append({"role": "assistant", "content": "x"})
    tokens = len(contexts.house.engine.requests[-1].prompt_token_ids)
    assert held_blocks(contexts)[0] >= (tokens - 2) // BLOCK


@pytest.mark.parametrize(
    "body",
    [
        {"system": [text(RULES, {"cache_control": {"type": "other"}})]},
        {"system": [text(RULES, {"cache_control": {"type": "ephemeral", "ttl": "soon"}})]},
        {"system": [text(RULES, {"cache_control": "ephemeral"})]},
        {"system": [text(RULES, {"cache_control": None})]},
        {"cache_control": 7},
        {"messages": [{"role": "user", "content": [text("Hi", MARK)]}]},
    ],
)
async def test_marks_that_say_nothing_are_no_error(contexts: ContextHouse, body: dict[str, Any]) -> None:
    await ask(contexts, **body)
    assert not contexts.cache.pins


async def test_tools_calls_and_the_whole_prompt_may_be_marked(contexts: ContextHouse) -> None:
    tool = {"name": "look", "input_schema": {"type": "object"}}
    call = {"type": "tool_use", "id": "c", "name": "look", "input": {}, **MARK}
    result = {"type": "tool_result", "tool_use_id": "c", "content": "Rain. " * 9, **MARK}
    turns = [
        *ASKED,
        {"role": "assistant", "content": [text("Let me see."), call]},
        {"role": "user", "content": [result]},
    ]
    for body in ({"messages": turns}, {"tools": [{**tool, **MARK}]}, {"cache_control": MARK["cache_control"]}):
        await ask(contexts, **{"tools": [tool], **body})
    assert contexts.cache.pins


async def test_openais_parts_and_options(contexts: ContextHouse, clock: Clock) -> None:
    chat = "chat/completions"
    marked = [text(RULES, {"prompt_cache_breakpoint": {"mode": "explicit"}}), text("And now?")]
    await ask(contexts, chat, messages=[{"role": "user", "content": marked}])
    (part,) = held_blocks(contexts)
    assert part == (1 + len(RULES)) // BLOCK
    await ask(contexts, chat, prompt_cache_options={"mode": "explicit", "ttl": "1h"}, prompt_cache_key="k")
    assert held_blocks(contexts) == [part]
    await ask(contexts, chat, prompt_cache_options={"ttl": "1h"}, prompt_cache_retention="24h")
    assert len(held_blocks(contexts)) == 2
    await ask(contexts, "responses", messages=None, input="Hello, " * 20, prompt_cache_options={"ttl": "1h"})
    assert len(held_blocks(contexts)) == 3
    clock.now += 1801
    await contexts.keeper.tend()
    assert len(held_blocks(contexts)) == 2


@pytest.mark.parametrize("path", ["chat/completions", "responses"])
async def test_prewarming_generates_nothing(contexts: ContextHouse, path: str) -> None:
    body = {"input": "Hello"} if path == "responses" else {}
    answer = await ask(contexts, path, prompt_cache_options={"prewarm": True}, max_tokens=None, min_tokens=3, **body)
    (request,) = contexts.house.engine.requests
    assert (request.params.max_tokens, request.params.min_tokens) == (0, 0)
    used = answer["usage"]
    assert used.get("completion_tokens", used.get("output_tokens")) == 0
    if path == "chat/completions":
        assert answer["choices"][0]["finish_reason"] == "length"
        assert not answer["choices"][0]["message"]["content"]


async def test_marks_have_an_eighth_and_contexts_go_before(contexts: ContextHouse) -> None:
    """Of 128 blocks marks have 16, and the tenant 32."""
    await ask(contexts, system=[text("s" * 17 * BLOCK, MARK)])
    assert not contexts.cache.pins
    await ask(contexts, system=[text("s" * 10 * BLOCK, MARK)])
    assert held_blocks(contexts) == [10]
    await contexts.put("large", prompt="l" * 30 * BLOCK)
    await contexts.keeper.tend()
    assert (await contexts.get("large"))["held"]
    assert held_blocks(contexts) == [30]
    await ask(contexts, system=[text("t" * 10 * BLOCK, MARK)])
    assert held_blocks(contexts) == [30]


async def test_a_longer_mark_without_room_leaves_the_shorter_ones_hold(contexts: ContextHouse, clock: Clock) -> None:
    """Of 128 blocks marks have 16."""
    await ask(contexts, system=[text("s" * 10 * BLOCK, MARK)])
    clock.now += 100
    await ask(contexts, system=[text("s" * 10 * BLOCK)], messages=[user("m" * 8 * BLOCK, MARK)])
    assert held_blocks(contexts) == [10]
    for seconds, blocks in ((199, [10]), (2, [])):
        clock.now += seconds
        await contexts.keeper.tend()
        assert held_blocks(contexts) == blocks, "for as long as it was marked"


async def test_a_longer_mark_takes_the_place_of_the_shorter_ones(contexts: ContextHouse) -> None:
    """Beside them it would have no room."""
    await ask(contexts, system=[text("s" * 10 * BLOCK, MARK)])
    await ask(contexts, system=[text("s" * 10 * BLOCK)], messages=[user("m" * 4 * BLOCK, MARK)])
    assert held_blocks(contexts) == [14]


async def test_a_mark_without_room_any_more_is_held_no_more(contexts: ContextHouse) -> None:
    """As of an engine that began again with fewer blocks."""
    await ask(contexts, system=[text("s" * 10 * BLOCK, MARK)])
    contexts.house.engine.ready = replace(contexts.house.engine.ready, num_blocks=64)
    await ask(contexts, system=[text("s" * 10 * BLOCK, MARK)])
    assert held_blocks(contexts) == []
    assert not contexts.cache.pins


async def test_a_mark_of_an_hour_is_counted_once(contexts: ContextHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    begun_ids = breakpoints.begun_ids

    async def counting(*parts: Any) -> list[int]:
        counted.append(parts)
        await asyncio.sleep(0.01)
        return await begun_ids(*parts)

    monkeypatch.setattr(breakpoints, "begun_ids", counting)
    await ask(contexts, system=[text(RULES, HOUR)])
    assert len(counted) == len(held_blocks(contexts)) == 1


async def test_without_a_prefix_cache_no_mark_is_counted(
    contexts: ContextHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = contexts.house.services
    services.settings = services.settings.model_copy(update={"enable_prefix_caching": False})
    monkeypatch.setattr(breakpoints, "begun_ids", None)
    used = (await ask(contexts, system=[text(RULES, HOUR)]))["usage"]
    assert used["cache_creation"]["ephemeral_1h_input_tokens"] == 0
    assert not held_blocks(contexts)


async def test_an_engine_that_restarted_holds_nothing(contexts: ContextHouse) -> None:
    await ask(contexts, system=[text(RULES, MARK)])
    contexts.cache.restart()
    await contexts.keeper.tend()
    assert held_blocks(contexts) == []
    await ask(contexts, system=[text(RULES, MARK)])
    assert contexts.cache.pins
