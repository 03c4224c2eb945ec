"""/v1/messages: Anthropic's messages and events out of ours, their errors for every failure; count_tokens counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.platform.gateway.house import ADMIN, TENANT, House

from multiflora_engine.protocol.requests import EngineFailure
from multiflora_platform.messages.reasoning import REASONING_FORMATS
from multiflora_platform.messages.tool_formats import HERMES

PATH, COUNT = "/v1/messages", "/v1/messages/count_tokens"
REPLY = "Hello, wörld!"
ASKED: dict[str, Any] = {"model": "sql", "max_tokens": 99, "messages": [{"role": "user", "content": "Hi"}]}
TOOLS = [{"name": name, "input_schema": {"type": "object"}} for name in ("get_weather", "find_person")]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


async def events(house: House, fields: dict[str, Any], **headers: str) -> list[dict[str, Any]]:
    response = await house.post(PATH, {**ASKED, "stream": True, **fields}, **headers)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    frames = [frame.split("\n") for frame in response.text.split("\n\n") if frame]
    found = [json.loads(data.removeprefix("data: ")) for _, data in frames]
    assert [name for name, _ in frames] == [f"event: {event['type']}" for event in found]
    return found


def told(found: list[dict[str, Any]]) -> list[str]:
    """Each event with its block and kind of delta; deltas in a row once."""
    names: list[str] = []
    for event in found:
        kind = event.get("delta", {}).get("type") or event.get("content_block", {}).get("type")
        name = " ".join(str(part) for part in (event["type"], event.get("index"), kind) if part is not None)
        names += [] if names and names[-1] == name else [name]
    return names


def prompt(house: House) -> str:
    return house.services.model.tokenizer.decode(house.engine.requests[-1].prompt_token_ids)


@pytest.fixture
def thinker(house: House) -> House:
    """Thinks, says something and calls twice."""
    model = house.services.model
    house.services.groups.default.model = replace(
        model, tool_format=HERMES, reasoning_format=REASONING_FORMATS["qwen3"]
    )
    house.engine.reply = f"<think>Rain?</think>Let me see.\n{CALL}\n{CALL}"
    return house


async def test_a_message(house: House) -> None:
    response = await house.post(f"{PATH}?beta=true", {**ASKED, "system": "Be brief."}, **{"anthropic-beta": "a,b"})
    assert prompt(house) == "<|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|>"
    answer = response.json()
    assert answer.pop("id").startswith("msg_")
    usage = answer.pop("usage")
    assert answer == {
        "type": "message",
        "role": "assistant",
        "model": "sql",
        "content": [{"type": "text", "text": REPLY}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
    }
    num_prompt = len(house.engine.requests[-1].prompt_token_ids)
    assert usage == {
        "input_tokens": num_prompt - num_prompt // 2 - num_prompt // 3,
        "cache_creation_input_tokens": num_prompt // 3,
        "cache_read_input_tokens": num_prompt // 2,
        "cache_creation": {"ephemeral_5m_input_tokens": num_prompt // 3, "ephemeral_1h_input_tokens": 0},
        "output_tokens": len(REPLY.encode()) + 1,
        "service_tier": "standard",
    }
    assert response.headers["request-id"] == response.headers["x-request-id"]


async def test_sampling_and_the_user_of_splits(house: House) -> None:
    seen = []
    resolve = house.registry.resolve
    house.registry.resolve = lambda model, user: seen.append(user) or resolve(model, user)  # type: ignore[func-returns-value]
    sampling = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "stop_sequences": ["w", "zz"]}
    answer = (await house.post(PATH, {**ASKED, **sampling, "metadata": {"user_id": "ann"}})).json()
    params = house.engine.requests[-1].params
    assert (params.temperature, params.top_p, params.top_k, params.max_tokens) == (0.5, 0.9, 7, 99)
    assert seen == ["ann"]
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "w")
    assert answer["content"] == [{"type": "text", "text": "Hello, "}]


async def test_a_stream_is_anthropics_sequence_of_events(house: House) -> None:
    found = await events(house, {})
    assert told(found) == [
        "message_start",
        "content_block_start 0 text",
        "ping",
        "content_block_delta 0 text_delta",
        "content_block_stop 0",
        "message_delta",
        "message_stop",
    ]
    message = found[0]["message"]
    assert (message["content"], message["stop_reason"], message["stop_sequence"]) == ([], None, None)
    assert found[1]["content_block"] == {"type": "text", "text": ""}
    assert "".join(e["delta"]["text"] for e in found if e["type"] == "content_block_delta") == REPLY
    delta = found[-2]
    assert delta["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert delta["usage"]["output_tokens"] == len(REPLY.encode()) + 1
    for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"):
        assert message["usage"][name] == delta["usage"][name]


async def test_thinking_text_and_calls_are_blocks_in_turn(thinker: House) -> None:
    asked = {"tools": TOOLS, "max_tokens": 200, "thinking": {"type": "enabled", "budget_tokens": 1024}}
    found = await events(thinker, asked)
    assert told(found) == [
        "message_start",
        "content_block_start 0 thinking",
        "ping",
        "content_block_delta 0 thinking_delta",
        "content_block_delta 0 signature_delta",
        "content_block_stop 0",
        "content_block_start 1 text",
        "content_block_delta 1 text_delta",
        "content_block_stop 1",
        "content_block_start 2 tool_use",
        "content_block_delta 2 input_json_delta",
        "content_block_stop 2",
        "content_block_start 3 tool_use",
        "content_block_delta 3 input_json_delta",
        "content_block_stop 3",
        "message_delta",
        "message_stop",
    ]
    pieces = [e["delta"]["partial_json"] for e in found if e.get("index") == 3 and "delta" in e]
    assert (pieces[0], json.loads("".join(pieces))) == ("", {"city": "Oslo"})
    assert found[-2]["delta"]["stop_reason"] == "tool_use"
    whole = (await thinker.post(PATH, {**ASKED, **asked})).json()
    thinking, text, *calls = whole["content"]
    assert (thinking["thinking"], bool(thinking["signature"]), text["text"]) == ("Rain?", True, "Let me see.")
    assert [(call["name"], call["input"]) for call in calls] == [("get_weather", {"city": "Oslo"})] * 2
    assert all(call["id"].startswith("toolu_") for call in calls)
    assert whole["stop_reason"] == "tool_use"


@pytest.mark.parametrize("thinking", [None, {"type": "disabled"}, {"type": "adaptive", "display": "omitted"}])
async def test_thinking_that_was_not_asked_for_is_left_out(thinker: House, thinking: Any) -> None:
    found = await events(thinker, {"tools": TOOLS, "max_tokens": 200, "thinking": thinking})
    kinds = [event["content_block"]["type"] for event in found if event["type"] == "content_block_start"]
    assert kinds == ["text", "tool_use", "tool_use"]


async def test_a_template_is_told_whether_to_think(house: House) -> None:
    kwargs: list[Any] = []
    render = type(house.services.model.tokenizer).apply_chat_template
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(house.services.model.tokenizer),
            "apply_chat_template",
            lambda self, *a, **k: kwargs.append(k["chat_template_kwargs"]) or render(self, *a, **k),
        )
        for thinking in (None, {"type": "disabled"}, {"type": "enabled", "budget_tokens": 2000}):
            assert (await house.post(PATH, {**ASKED, "thinking": thinking})).status_code == 200
    assert kwargs == [{"enable_thinking": thinks, "thinking": thinks} for thinks in (False, False, True)]


async def test_a_call_that_max_tokens_cuts(thinker: House) -> None:
    """Its arguments are no JSON; the message still is, and the conversation can go on with it."""
    thinker.engine.reply = CALL
    cut = CALL.index("slo")
    answer = (await thinker.post(PATH, {**ASKED, "tools": TOOLS, "max_tokens": cut})).json()
    assert answer["stop_reason"] == "max_tokens"
    (call,) = answer["content"]
    assert call["input"] == {"raw_arguments": '{"city": "O'}


@pytest.mark.parametrize(
    ("choice", "names", "only_one"),
    [
        ({"type": "any"}, {"get_weather", "find_person"}, False),
        ({"type": "any", "disable_parallel_tool_use": True}, {"get_weather", "find_person"}, True),
        ({"type": "tool", "name": "find_person"}, {"find_person"}, True),
    ],
)
async def test_a_call_that_must_come_is_a_grammar(
    thinker: House, choice: dict[str, Any], names: set[str], only_one: bool
) -> None:
    assert (await thinker.post(PATH, {**ASKED, "tools": TOOLS, "tool_choice": choice})).status_code == 200
    grammar = thinker.engine.requests[-1].grammar or ""
    assert {tool["name"] for tool in TOOLS if tool["name"] in grammar} == names
    chat_choice = {"any": "required", "tool": {"type": "function", "function": {"name": choice.get("name")}}}
    functions = [{"type": "function", "function": {"name": t["name"], "parameters": t["input_schema"]}} for t in TOOLS]
    chat = {
        **ASKED,
        "tools": functions,
        "tool_choice": chat_choice[choice["type"]],
        "parallel_tool_calls": not only_one,
    }
    assert (await thinker.post("/v1/chat/completions", chat)).status_code == 200
    assert thinker.engine.requests[-1].grammar == grammar


async def test_a_hundred_tools(thinker: House) -> None:
    tools = [{"name": f"mcp__{'server' * 10}__tool_{i}", "input_schema": {"type": "object"}} for i in range(100)]
    for choice in ({"type": "auto"}, {"type": "any"}):
        answer = await thinker.post(PATH, {**ASKED, "tools": tools, "tool_choice": choice})
        assert answer.status_code == 200, answer.text
    assert all(tool["name"] in (thinker.engine.requests[-1].grammar or "") for tool in tools)


async def test_no_call_is_read_where_none_may_come(thinker: House) -> None:
    thinker.engine.reply = CALL
    answer = (await thinker.post(PATH, {**ASKED, "tools": TOOLS, "tool_choice": {"type": "none"}})).json()
    assert [block["type"] for block in answer["content"]] == ["text"]


async def test_an_answer_that_follows_a_schema(house: House) -> None:
    form = {"type": "json_schema", "schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}
    body = {**ASKED, "output_config": {"format": form, "effort": "low"}}
    assert (await house.post(PATH, body)).status_code == 200
    assert house.engine.requests[-1].grammar
    for older in ({"output_format": form}, {"output_format": form, "output_config": {"effort": "low"}}):
        assert (await house.post(PATH, {**ASKED, **older})).status_code == 200
        assert house.engine.requests[-1].grammar
    form["schema"] = {"not": {}}
    refused = await house.post(PATH, body)
    assert refused.status_code == 400
    assert "output_config.format" in refused.json()["error"]["message"]


async def test_counting_needs_no_engine_and_equals_the_usage(thinker: House) -> None:
    conversation = {
        "model": "sql",
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        "messages": [{"role": "user", "content": "Weather?"}, {"role": "assistant", "content": "It"}],
        "tools": TOOLS,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }
    usage = (await thinker.post(PATH, {**conversation, "max_tokens": 9})).json()["usage"]
    thinker.engine.ready = None
    counted = await thinker.post(f"{COUNT}?beta=true", conversation)
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    assert counted.json() == {"input_tokens": sum(usage[name] for name in names)}
    longer = {**conversation, "system": "x" * 10_000}
    assert (await thinker.post(COUNT, longer)).json()["input_tokens"] > 10_000
    assert len(thinker.engine.requests) == 1
    missing = await thinker.post(COUNT, {**conversation, "model": "nobody"})
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")


async def test_it_is_counted_and_listed_as_chat_is(house: House) -> None:
    answer = (await house.post(PATH, ASKED)).json()
    counts = house.services.usage.counted[None, "sql"]
    read = answer["usage"]["cache_read_input_tokens"]
    assert (counts.requests, counts.cached_tokens, counts.completion_tokens) == (
        1,
        read,
        answer["usage"]["output_tokens"],
    )
    (listed,) = house.services.insight.requests.newest()
    assert (listed.view().path, listed.model) == (PATH, "sql")
    await house.post(PATH, {**ASKED, "messages": []})
    assert next(house.services.insight.requests.newest()).view().path == PATH
    text = (await house.http.get("/metrics")).text
    assert f'route="{PATH}"' in text


async def test_models_have_anthropics_shape_for_its_clients(house: House) -> None:
    version = {"anthropic-version": "2023-06-01"}
    page = (await house.http.get("/v1/models?limit=1000", headers=version)).json()
    assert [model["id"] for model in page["data"]] == ["base", "sql", "sql@canary"]
    assert (page["has_more"], page["first_id"], page["last_id"]) == (False, "base", "sql@canary")
    model = (await house.http.get("/v1/models/sql", headers=version)).json()
    assert model == page["data"][1]
    assert (model["type"], model["created_at"], model["max_tokens"]) == ("model", "2023-11-14T22:13:20Z", 256)
    assert refused(await house.http.get("/v1/models/nobody", headers=version)) == (404, "not_found_error")
    assert (await house.http.get("/v1/models/nobody")).json()["error"]["code"] == "model_not_found"


# ---- failures


def refused(response: Any) -> tuple[int, str]:
    """Status and type of an error in Anthropic's envelope."""
    body = response.json()
    assert body.keys() == {"type", "error", "request_id"}
    assert (body["type"], body["error"].keys()) == ("error", {"type", "message"})
    assert body["error"]["message"]
    assert body["request_id"] == response.headers["request-id"]
    return response.status_code, body["error"]["type"]


@pytest.mark.parametrize("path", [PATH, COUNT])
async def test_keys(house: House, path: str) -> None:
    """A key comes as x-api-key or as a bearer token; of the two the Authorization header counts."""
    body = {**ASKED}
    nothing, wrong = {"Authorization": ""}, {"x-api-key": "wrong"}
    del house.http.headers["Authorization"]
    assert refused(await house.post(path, body)) == (401, "authentication_error")
    assert refused(await house.post(path, body, **wrong)) == (401, "authentication_error")
    assert refused(await house.post(path, body, **nothing)) == (401, "authentication_error")
    assert (await house.post(path, body, **{"x-api-key": ADMIN, "anthropic-version": "2023-06-01"})).status_code == 200
    assert (await house.post(path, body, Authorization=f"Bearer {ADMIN}", **wrong)).status_code == 200
    assert refused(await house.post(path, body, Authorization="Bearer no", **{"x-api-key": ADMIN}))[0] == 401


async def test_permission(house: House) -> None:
    house.services.keys.set_policy(TENANT, disabled=True)
    assert refused(await house.post(PATH, ASKED, Authorization=f"Bearer {TENANT}")) == (403, "permission_error")


async def test_there_is_no_such_model_path_or_method(house: House) -> None:
    assert refused(await house.post(PATH, {**ASKED, "model": "nobody"})) == (404, "not_found_error")
    assert refused(await house.post(f"{PATH}/batches", {})) == (404, "not_found_error")
    assert refused(await house.http.get(PATH)) == (405, "invalid_request_error")


async def test_bodies_and_heads_over_the_limits(make_house: Callable[..., House]) -> None:
    house = make_house({"max_request_bytes": 2000})
    async with house.http:
        large = {**ASKED, "system": "x" * 3000}
        assert refused(await house.post(PATH, large)) == (413, "request_too_large")
        head = {"x-padding": "x" * (65 << 10)}
        assert refused(await house.post(PATH, ASKED, **head)) == (431, "invalid_request_error")
        assert refused(await house.post(PATH, ASKED, Host="elsewhere")) == (400, "invalid_request_error")


async def test_limits_say_when_to_come_back(house: House) -> None:
    house.services.keys.set_policy(TENANT, requests_per_minute=1)
    key = {"Authorization": f"Bearer {TENANT}"}
    assert (await house.post(PATH, ASKED, **key)).status_code == 200
    reached = await house.post(PATH, ASKED, **key)
    assert refused(reached) == (429, "rate_limit_error")
    assert int(reached.headers["retry-after"]) > 0
    assert (await house.post(COUNT, ASKED, **key)).status_code == 200


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("server_overloaded", 429, "rate_limit_error"),
        ("adapter_loading", 503, "overloaded_error"),
        ("engine_dead", 503, "overloaded_error"),
        ("deadline_exceeded", 504, "timeout_error"),
        ("internal_error", 500, "api_error"),
    ],
)
async def test_failures_of_the_engine(house: House, code: str, status: int, kind: str) -> None:
    house.engine.failure = EngineFailure(code, "It broke.")
    assert refused(await house.post(PATH, ASKED)) == (status, kind)
    assert refused(await house.post(PATH, {**ASKED, "stream": True})) == (status, kind)
    house.engine.fail_after = 3
    found = await events(house, {}, **{"x-request-id": "req-1"})
    assert found[-1] == {"type": "error", "error": {"type": kind, "message": "It broke."}, "request_id": "req-1"}
    assert told(found)[:-1] == [
        "message_start",
        "content_block_start 0 text",
        "ping",
        "content_block_delta 0 text_delta",
    ]
    assert not house.services.active
    assert not house.registry.leased


async def test_an_engine_that_is_away_and_a_server_that_ends(house: House) -> None:
    house.engine.ready = None
    assert refused(await house.post(PATH, ASKED)) == (503, "overloaded_error")
    house.services.draining = True
    ending = await house.post(PATH, ASKED)
    assert refused(ending) == (503, "overloaded_error")
    assert ending.headers["retry-after"]


async def test_an_error_that_is_ours(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house.registry, "resolve", lambda model, user: 1 / 0)
    assert refused(await house.post(PATH, ASKED)) == (500, "api_error")


async def test_a_deadline(house: House) -> None:
    house.engine.hangs = True
    late = await house.post(PATH, ASKED, **{"X-Request-Timeout": "0.05"})
    assert refused(late) == (504, "timeout_error")
    house.engine.hangs, house.engine.pace = False, 0.05
    found = await events(house, {}, **{"X-Request-Timeout": "0.2"})
    assert (found[0]["type"], found[-1]["error"]["type"]) == ("message_start", "timeout_error")
    assert refused(await house.post(PATH, ASKED, **{"X-Request-Timeout": "soon"})) == (400, "invalid_request_error")


async def test_agents_read_what_is_too_long_in_anthropics_words(house: House) -> None:
    """They shorten the answer, or the conversation, by the numbers in it."""
    longest = (await house.post(PATH, {**ASKED, "max_tokens": 5000})).json()["error"]["message"]
    assert longest.startswith("input length and `max_tokens` exceed context limit: ")
    num_prompt = (await house.post(COUNT, ASKED)).json()["input_tokens"]
    assert f" {num_prompt} + 5000 > 256, " in longest
    long = {"messages": [{"role": "user", "content": "x" * 1000}]}
    for limited in ({}, {"max_tokens": 1}):
        said = (await house.post(PATH, {**ASKED, **long, **limited})).json()["error"]["message"]
        assert said.startswith("prompt is too long: ")
        assert said.endswith(" tokens > 255 maximum")


MESSAGES: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens is required"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"model": ""}, "model is empty"),
    ({"messages": []}, "messages is empty"),
    ({"messages": "Hi"}, "messages"),
    ({"messages": ["Hi"]}, "messages"),
    ({"system": 5}, "system"),
    ({"system": [{"type": "image"}]}, "system[0].type 'image'"),
    ({"stop_sequences": "a"}, "stop_sequences"),
    ({"stop_sequences": [""]}, "stop_sequences must"),
    ({"stop_sequences": ["a"] * 1000}, "stop_sequences holds"),
    ({"temperature": -1}, "temperature"),
    ({"top_k": 1.5}, "top_k"),
    ({"metadata": {"user_id": 5}}, "metadata.user_id"),
    ({"thinking": {"type": "maybe"}}, "thinking.type"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type 'web_search_20250305'"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type 'bash_20250124'"),
    ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
    ({"tools": [{"name": "no spaces", "input_schema": {}}]}, "tools[0].name"),
    ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
    ({"tools": [{"name": "f", "input_schema": {}}] * 129}, "at most 128"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tool_choice": {"type": "tool"}, "tools": TOOLS}, "tool_choice.name"),
    ({"tool_choice": {"type": "tool", "name": "f"}, "tools": TOOLS}, "tool_choice names 'f'"),
    ({"tool_choice": "any"}, "tool_choice"),
    ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
    ({"n": 2}, "n is not supported"),
    ({"best_of": 2}, "best_of"),
    ({"use_beam_search": True}, "use_beam_search"),
    ({"chat_template": "x"}, "chat_template"),
    ({"lora_path": "/x"}, "lora_path"),
]


@pytest.mark.parametrize(("fields", "words"), MESSAGES, ids=range(len(MESSAGES)))
async def test_what_cannot_be_asked_is_named(house: House, fields: dict[str, Any], words: str) -> None:
    response = await house.post(PATH, {**ASKED, **fields})
    assert refused(response) == (400, "invalid_request_error")
    assert words in response.json()["error"]["message"]
    assert not house.engine.requests


async def test_a_body_that_is_no_json(house: House) -> None:
    for content in (b"", b"{", b"[]", b"\xff"):
        assert refused(await house.http.post(PATH, content=content)) == (400, "invalid_request_error")


async def test_unknown_fields_are_accepted(house: House) -> None:
    extra = {"container": None, "service_tier": "auto", "context_management": {}, "new": [1], "cache_control": {}}
    assert (await house.post(PATH, {**ASKED, **extra})).status_code == 200
