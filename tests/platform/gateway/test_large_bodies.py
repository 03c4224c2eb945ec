"""Bodies up to the limit: what would hold up others is refused unread, and what is read is read off the event loop."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
from tests.platform.gateway.house import House

from multiflora_platform.gateway.generation import start
from multiflora_platform.gateway.prompting import messages, tool_choice
from multiflora_platform.gateway.schemas import decoding
from multiflora_platform.web.body_work import MOST_CONTAINERS, MOST_VALUES, SMALL

MESSAGE = {"role": "user", "content": "a"}
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "a"},
    "/v1/chat/completions": {"messages": [MESSAGE]},
    "/v1/responses": {"input": "a"},
    "/v1/messages": {"messages": [MESSAGE], "max_tokens": 5},
    "/v1/embeddings": {"input": "a"},
    "/v1/score": {"text_1": "a", "text_2": "b"},
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [97]},
}


@pytest.mark.parametrize("path", ROUTES)
async def test_values_without_number_are_refused_unread_on_every_route(house: House, path: str) -> None:
    for extra, what in (([1] * (MOST_VALUES + 1), "values"), ([[]] * MOST_CONTAINERS, "objects and lists")):
        filler = {"filler": " " * SMALL, "model": "base", **ROUTES[path]}
        response = await house.http.post(path, content=json.dumps({**filler, "extra": extra}))
        assert response.status_code == 400, response.text
        assert what in response.json()["error"]["message"]
        assert (await house.http.post(path, content=json.dumps(filler))).status_code == 200


async def test_a_large_body_is_read_off_the_loop(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    read = decoding._read

    def watched(content: bytes, kind: Any) -> Any:
        threads.append(threading.current_thread())
        return read(content, kind)

    monkeypatch.setattr(decoding, "_read", watched)
    for size in (0, SMALL):
        await house.http.post("/tokenize", json={"prompt": "a", "filler": " " * size})
    assert threads[0] is threading.current_thread()
    assert threads[1] is not threading.current_thread()


async def test_a_long_text_may_mention_any_number_of_objects(house: House) -> None:
    text = json.dumps([{}] * (2 * MOST_CONTAINERS))
    response = await house.http.post("/v1/completions", json={"model": "base", "prompt": text})
    assert response.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("prompt", [[10**9] * 300, [[97], [10**9] * 300]])
async def test_ids_that_cannot_fit_are_not_looked_at(house: House, prompt: list[Any]) -> None:
    response = await house.http.post("/v1/completions", json={"model": "base", "prompt": prompt})
    assert response.json()["error"]["code"] == "context_length_exceeded"


async def test_a_text_to_be_cut_or_counted_may_be_long_but_not_without_end(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multiflora_platform.gateway.prompting.tokenize.MOST_CUT", 1000)
    cut = {"model": "base", "truncate_prompt_tokens": 5, "max_tokens": 3}
    for path, body, name in (
        ("/v1/completions", cut, "prompt"),
        ("/v1/embeddings", {"model": "base", "truncate_prompt_tokens": 5}, "input"),
        ("/tokenize", {}, "prompt"),
    ):
        for prompt in ("a" * 1000, [97] * 1000) if path != "/tokenize" else ("a" * 1000,):
            assert (await house.http.post(path, json={**body, name: prompt})).status_code == 200
            error = (await house.http.post(path, json={**body, name: prompt + prompt[:1]})).json()["error"]
            assert (error["param"], error["code"]) == (name, "invalid_value")
            assert error["message"] == f"{name} has 1001 tokens; at most 1000 are taken at once."


async def test_messages_are_read_where_their_text_is_tokenised(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def watched(*arguments: Any) -> Any:
        threads.append(threading.current_thread())
        return template_messages(*arguments)

    template_messages = messages.template_messages
    monkeypatch.setattr(messages, "template_messages", watched)
    body = {"model": "base", "messages": [MESSAGE] * 1000}
    for path in ("/v1/chat/completions", "/v1/messages"):
        response = await house.http.post(path, json={**body, "max_tokens": 5})
        assert response.status_code == 400
    assert len(threads) == 2
    assert threading.current_thread() not in threads


async def test_too_many_tools_are_counted_and_not_read(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool_choice, "_without_nulls", lambda *_: pytest.fail("read"))
    tool = {"type": "function", "function": {"name": "f"}}
    body = {"model": "base", "messages": [MESSAGE], "tools": [tool] * 129}
    for path in ("/v1/chat/completions", "/tokenize"):
        response = await house.http.post(path, json=body)
        assert response.json()["error"]["message"] == "tools holds 129 tools; at most 128 are taken."


def test_arguments_of_a_call_that_hold_values_without_number_stay_text() -> None:
    many = json.dumps({"a": [1] * MOST_VALUES})
    assert messages.call_arguments(many) == {"raw_arguments": many}
    long = json.dumps({"a": "1," * MOST_VALUES})
    assert messages.call_arguments(long) == json.loads(long)


async def test_many_prompts_leave_turns_to_other_requests(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    turns, ended = 0, asyncio.Event()

    async def others() -> None:
        nonlocal turns
        while not ended.is_set():
            turns += 1
            await asyncio.sleep(0)

    start_one, seen = start._start_one, []

    def watched(*arguments: Any) -> Any:
        seen.append(turns)
        return start_one(*arguments)

    monkeypatch.setattr(start, "_start_one", watched)
    counting = asyncio.create_task(others())
    response = await house.http.post("/v1/embeddings", json={"model": "base", "input": ["a"] * 100})
    ended.set()
    await counting
    assert len(response.json()["data"]) == len(seen) == 100
    assert len(set(seen)) == 7


def nested(levels: int, opening: str = '{"properties":{"a":', closing: str = "}}") -> str:
    return opening * levels + "{}" + closing * levels


@pytest.mark.parametrize("levels", [70, 300])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/tokenize"])
async def test_tools_and_schemas_nested_too_deeply_are_refused(house: House, path: str, levels: int) -> None:
    schema = json.loads(nested(levels))
    function = {"name": "f", "parameters": schema}
    tool = {
        "/v1/responses": {"type": "function", **function},
        "/v1/messages": {"name": "f", "input_schema": schema},
    }.get(path, {"type": "function", "function": function})
    error = (await house.http.post(path, json={"model": "base", **ROUTES[path], "tools": [tool]})).json()["error"]
    assert error["message"] == "The body is nested too deeply."


async def test_a_schema_written_as_text_is_refused_where_it_is_nested_too_deeply(house: House) -> None:
    form = {"json": nested(400), "disable_additional_properties": True}
    body = {"model": "base", "prompt": "a", "structured_outputs": form}
    response = await house.http.post("/v1/completions", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "structured_outputs")
    assert "nested too deeply" in response.json()["error"]["message"]


async def test_an_item_whose_type_is_null_is_a_message(house: House) -> None:
    item = {"type": None, **MESSAGE}
    response = await house.http.post("/v1/responses", json={"model": "base", "input": [item]})
    assert response.status_code == 200, response.text
