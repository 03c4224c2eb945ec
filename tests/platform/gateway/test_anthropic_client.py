"""Anthropic's official client against a real server on a loopback port: answers, streams, tools, errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import uvicorn
from tests.platform.gateway.house import ADMIN, House

from multiflora_engine.protocol.requests import EngineFailure
from multiflora_platform.messages.reasoning import REASONING_FORMATS
from multiflora_platform.messages.tool_formats import HERMES

anthropic = pytest.importorskip("anthropic")

REPLY = "Hello, wörld!"
ASKED: dict[str, Any] = {"model": "sql", "max_tokens": 99, "messages": [{"role": "user", "content": "Hi"}]}
WEATHER = {"name": "get_weather", "description": "Of a city.", "input_schema": {"type": "object"}}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


@pytest.fixture
async def url(house: House) -> AsyncIterator[str]:
    server = uvicorn.Server(uvicorn.Config(house.app, port=0, log_config=None, access_log=False, lifespan="off"))
    serving = asyncio.create_task(server.serve())
    await house.until(lambda: server.started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await serving


@pytest.fixture
async def client(url: str) -> AsyncIterator[Any]:
    async with anthropic.AsyncAnthropic(base_url=url, api_key=ADMIN, max_retries=0) as client:
        yield client


@pytest.fixture
def caller(house: House) -> House:
    """Thinks, says something and calls twice."""
    model = house.services.model
    house.services.groups.default.model = replace(
        model, tool_format=HERMES, reasoning_format=REASONING_FORMATS["qwen3"]
    )
    house.engine.reply = f"<think>Rain?</think>Let me see.\n{CALL}\n{CALL}"
    return house


async def test_a_message(client: Any) -> None:
    answer = await client.messages.create(**ASKED, system="Be brief.")
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", "sql")
    assert [block.text for block in answer.content] == [REPLY]
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    assert answer.usage.output_tokens == len(REPLY.encode()) + 1
    assert answer._request_id


async def test_the_synchronous_client(url: str) -> None:
    def ask() -> str:
        with anthropic.Anthropic(base_url=url, auth_token=ADMIN, api_key=None, max_retries=0) as client:
            with client.messages.stream(**ASKED) as stream:
                text = "".join(stream.text_stream)
            assert client.messages.create(**ASKED).content[0].text == text
            return text

    assert await asyncio.to_thread(ask) == REPLY


async def test_a_stream(client: Any) -> None:
    async with client.messages.stream(**ASKED) as stream:
        texts = [text async for text in stream.text_stream]
        final = await stream.get_final_message()
    assert "".join(texts) == final.content[0].text == REPLY
    whole = await client.messages.create(**ASKED)
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    assert final.usage.input_tokens == whole.usage.input_tokens > 0
    assert final.usage.cache_read_input_tokens == whole.usage.cache_read_input_tokens > 0


async def test_raw_events(client: Any) -> None:
    stream = await client.messages.create(**ASKED, stream=True)
    kinds = [event.type async for event in stream]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]


async def test_tools_there_and_back(caller: House, client: Any) -> None:
    asked: dict[str, Any] = {**ASKED, "max_tokens": 200, "tools": [WEATHER], "thinking": {"type": "adaptive"}}
    async with client.messages.stream(**asked) as stream:
        kinds = {event.type async for event in stream}
        answer = await stream.get_final_message()
    assert {"text", "thinking", "signature", "input_json"} <= kinds
    thinking, text, *calls = answer.content
    assert (thinking.thinking, text.text, answer.stop_reason) == ("Rain?", "Let me see.", "tool_use")
    assert [(call.name, call.input) for call in calls] == [("get_weather", {"city": "Oslo"})] * 2
    assert len({call.id for call in calls}) == 2
    caller.engine.reply = "It rains."
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": "rain"} for call in calls]
    history = [
        *ASKED["messages"],
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": results},
    ]
    last = await client.messages.create(**{**asked, "messages": history})
    assert [block.text for block in last.content] == ["It rains."]


async def test_counting(client: Any, house: House) -> None:
    counted = await client.messages.count_tokens(model="sql", messages=ASKED["messages"], system="Be brief.")
    assert not house.engine.requests
    usage = (await client.messages.create(**ASKED, system="Be brief.")).usage
    total = usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens
    assert counted.input_tokens == total > 0


async def test_models(client: Any) -> None:
    assert [model.id async for model in client.models.list(limit=1)] == ["base", "sql", "sql@canary"]
    assert (await client.models.retrieve("sql")).display_name == "sql"


async def test_errors_become_the_clients_own(client: Any, house: House) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        await client.messages.create(**{**ASKED, "model": "nobody"})
    assert missing.value.type == "not_found_error"
    assert missing.value.request_id == missing.value.body["request_id"]
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        await client.messages.create(**ASKED, extra_body={"temperature": -1})
    with pytest.raises(anthropic.AuthenticationError):
        await client.with_options(api_key="wrong").messages.create(**ASKED)
    house.engine.ready = None
    with pytest.raises(anthropic.InternalServerError) as away:
        await client.messages.create(**ASKED)
    assert (away.value.status_code, away.value.type) == (503, "overloaded_error")


async def test_an_error_within_a_stream_reaches_the_caller(client: Any, house: House) -> None:
    house.engine.failure, house.engine.fail_after = EngineFailure("engine_dead", "It died."), 2
    with pytest.raises(anthropic.APIStatusError, match="It died"):
        async with client.messages.stream(**ASKED) as stream:
            await stream.get_final_message()


async def test_closing_a_stream_aborts(client: Any, house: House) -> None:
    house.engine.pace = 0.01
    async with client.messages.stream(**{**ASKED, "max_tokens": 200}, extra_body={"ignore_eos": True}) as stream:
        await anext(aiter(stream))
    await house.until(lambda: house.engine.aborted)
    await house.until(lambda: not house.registry.leased)
