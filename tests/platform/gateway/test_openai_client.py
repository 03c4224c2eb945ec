"""The official client against a real server on a loopback port: what its types and its stream reader accept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import uvicorn
from tests.platform.gateway.house import ADMIN, House

REPLY = "Hello, wörld!"
CHAT: dict[str, Any] = {"model": "sql", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
async def client(house: House) -> AsyncIterator[openai.AsyncOpenAI]:
    server = uvicorn.Server(uvicorn.Config(house.app, port=0, log_config=None, access_log=False, lifespan="off"))
    serving = asyncio.create_task(server.serve())
    await house.until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=ADMIN, max_retries=0) as client:
        yield client
    server.should_exit = True
    await serving


async def test_chat(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(**CHAT, logprobs=True, top_logprobs=2)
    assert answer.choices[0].message.content == REPLY
    assert answer.choices[0].logprobs.content[0].top_logprobs[1].token == "I"
    assert answer.usage.prompt_tokens_details.cached_tokens > 0
    assert answer.usage.prompt_tokens_details.cache_write_tokens > 0


async def test_streams_of_chat(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == REPLY
    assert chunks[-1].usage.completion_tokens == len(REPLY.encode()) + 1


async def test_completions(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model="base", prompt=["a", "b"], max_tokens=3, logprobs=1, echo=True)
    assert [choice.text for choice in answer.choices] == ["aHel", "bHel"]
    stream = await client.completions.create(model="base", prompt="a", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == REPLY


async def test_models(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["base", "sql", "sql@canary"]
    assert (await client.models.retrieve("sql")).owned_by == "multiflora"


async def test_errors_become_the_clients_own(client: openai.AsyncOpenAI, house: House) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(**{**CHAT, "model": "nobody"})
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        await client.chat.completions.create(**CHAT, temperature=-1)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="wrong").models.list()
    house.engine.ready = None
    with pytest.raises(openai.InternalServerError) as away:
        await client.chat.completions.create(**CHAT)
    assert away.value.status_code == 503


async def test_closing_a_stream_aborts(client: openai.AsyncOpenAI, house: House) -> None:
    house.engine.pace = 0.01
    stream = await client.completions.create(
        model="sql", prompt="a", stream=True, max_tokens=200, extra_body={"ignore_eos": True}
    )
    await anext(aiter(stream))
    await stream.close()
    await house.until(lambda: house.engine.aborted)
    await house.until(lambda: not house.registry.leased)


async def test_an_error_within_a_stream_reaches_the_caller(client: openai.AsyncOpenAI, house: House) -> None:
    house.engine.pace = 0.05
    stream = await client.completions.create(
        model="sql", prompt="a", stream=True, extra_headers={"X-Request-Timeout": "0.1"}, max_tokens=99
    )
    with pytest.raises(openai.APIError, match="deadline"):
        async for _ in stream:
            pass
