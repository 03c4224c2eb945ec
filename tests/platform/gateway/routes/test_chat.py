"""POST /v1/chat/completions: messages through the template, whole answers and streams."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from tests.platform.gateway.house import MAX_LEN, House

PATH = "/v1/chat/completions"
REPLY = "Hello, wörld!"
USER = {"role": "user", "content": "Hi"}
CALLING = {"role": "assistant"}


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "base", "messages": [USER], **fields}


def prompt_text(house: House) -> str:
    return house.services.model.tokenizer.decode(house.engine.requests[-1].prompt_token_ids)


async def test_an_answer(house: House) -> None:
    answer = (await house.post(PATH, body())).json()
    assert prompt_text(house) == "<|user|>Hi<|end|><|assistant|>"
    [choice] = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": REPLY, "refusal": None}
    assert (answer["object"], choice["finish_reason"], choice["logprobs"]) == ("chat.completion", "stop", None)
    count = answer["usage"]["prompt_tokens"]
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": count // 2, "cache_write_tokens": count // 3}


async def test_a_stream_begins_with_the_role_and_ends_with_the_reason(house: House) -> None:
    *events, usage, done = await house.events(PATH, body(stream_options={"include_usage": True}))
    first, *middle, last = [event["choices"][0] for event in events]
    assert first["delta"] == {"role": "assistant", "content": ""}
    assert "".join(choice["delta"]["content"] for choice in middle) == REPLY
    assert (last["delta"], last["finish_reason"]) == ({}, "stop")
    assert all(choice["finish_reason"] is None for choice in (first, *middle))
    assert (usage["choices"], done) == ([], "[DONE]")
    assert {event["object"] for event in events} == {"chat.completion.chunk"}


async def test_without_being_asked_a_stream_has_no_usage(house: House) -> None:
    *events, _ = await house.events(PATH, body())
    assert not [event for event in events if "usage" in event or not event["choices"]]


async def test_several_answers_in_one_stream(house: House) -> None:
    *events, _ = await house.events(PATH, body(n=2, max_tokens=3))
    choices = [event["choices"][0] for event in events]
    for index in (0, 1):
        own = [choice["delta"] for choice in choices if choice["index"] == index]
        assert own[0]["role"] == "assistant"
        assert "".join(delta.get("content", "") for delta in own) == "Hel"


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities(house: House, stream: bool) -> None:
    request = body(logprobs=True, top_logprobs=1, max_completion_tokens=9)
    if stream:
        *events, _ = await house.events(PATH, request)
        scores = [entry for event in events if (lp := event["choices"][0]["logprobs"]) for entry in lp["content"]]
    else:
        scores = (await house.post(PATH, request)).json()["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in scores[:2]] == ["H", "e"]
    assert [entry["bytes"] for entry in scores[8:]] == [[0xC3]]
    assert scores[0]["top_logprobs"] == [{"token": "H", "logprob": -2.0, "bytes": [72]}]


async def test_the_default_length_is_what_fits(house: House) -> None:
    await house.post(PATH, body())
    [request] = house.engine.requests
    assert request.params.max_tokens == MAX_LEN - len(request.prompt_token_ids)


async def test_max_completion_tokens_counts_before_max_tokens(house: House) -> None:
    answer = (await house.post(PATH, body(max_tokens=9, max_completion_tokens=2))).json()
    assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == (2, "length")


async def test_text_parts_are_joined_for_a_template_that_reads_text(house: House) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    await house.post(PATH, body(messages=[{"role": "user", "content": parts}]))
    assert prompt_text(house) == "<|user|>a\nb<|end|><|assistant|>"


async def test_every_role_is_taken(house: House) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    messages = [
        {"role": "developer", "content": "d"},
        USER,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "1"},
        {"role": "function", "name": "f", "content": "2"},
    ]
    assert (await house.post(PATH, body(messages=messages, max_tokens=1))).status_code == 200
    assert prompt_text(house).startswith("<|system|>d<|end|>")


async def test_continuing_the_final_message(house: House) -> None:
    messages = [USER, {"role": "assistant", "content": "So"}]
    await house.post(PATH, body(messages=messages, continue_final_message=True, max_tokens=1))
    assert prompt_text(house) == "<|user|>Hi<|end|><|assistant|>So"
    await house.post(PATH, body(messages=messages, add_generation_prompt=False, max_tokens=1))
    assert prompt_text(house) == "<|user|>Hi<|end|><|assistant|>So<|end|>"


@pytest.mark.parametrize("content", ["Once", [{"type": "text", "text": "Once"}]])
async def test_echo_repeats_the_message_that_is_continued(house: House, content: Any) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": content}]
    fields = {"messages": messages, "continue_final_message": True, "add_generation_prompt": False, "echo": True}
    answer = (await house.post(PATH, body(**fields, n=2))).json()
    assert {choice["message"]["content"] for choice in answer["choices"]} == {"Once" + house.engine.reply}
    events = await house.events(PATH, body(**fields))
    deltas = [event["choices"][0]["delta"] for event in events[:-1]]
    assert deltas[1] == {"content": "Once"}
    assert "".join(delta.get("content", "") for delta in deltas) == "Once" + house.engine.reply
    asked = (await house.post(PATH, body(echo=True))).json()
    assert asked["choices"][0]["message"]["content"] == house.engine.reply, "what the user said is not repeated"


async def test_refusals_of_earlier_answers_are_text(house: House) -> None:
    for refused in ({"content": None, "refusal": "No."}, {"content": [{"type": "refusal", "refusal": "No."}]}):
        messages = [{"role": "assistant", **refused}, {"role": "user", "content": "Why?"}]
        assert (await house.post(PATH, body(messages=messages))).status_code == 200
        text = house.services.model.tokenizer.decode(house.engine.requests[-1].prompt_token_ids)
        assert text.startswith("<|assistant|>No.<|end|>")


async def test_token_ids_are_returned_on_request(house: House) -> None:
    answer = (await house.post(PATH, body(return_token_ids=True, max_tokens=2))).json()
    encode = house.services.model.tokenizer.encode
    assert answer["choices"][0]["token_ids"] == encode("He")
    assert answer["prompt_token_ids"] == house.engine.requests[0].prompt_token_ids
    first, *events, _finish, _ = await house.events(PATH, body(return_token_ids=True, max_tokens=2))
    assert first["prompt_token_ids"] == answer["prompt_token_ids"]
    assert [event["choices"][0]["token_ids"] for event in events] == [[token] for token in encode("He")]


async def test_tool_definitions_reach_the_template(house: House) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert (await house.post(PATH, body(tools=tools, tool_choice="auto", max_tokens=1))).status_code == 200


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ([{"role": "pirate", "content": "x"}], "messages[0].role"),
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role"),
        ([USER, {"role": "user"}], "messages[1].content"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([{"role": "user", "content": []}], "messages[0].content"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": [7]}], "messages[0].content[0]"),
        ([{**CALLING, "tool_calls": "x"}], "messages[0].tool_calls"),
        ([{**CALLING, "tool_calls": [{"function": "f"}]}], "messages[0].tool_calls[0]"),
        (["x"], "messages[0]"),
        ("x", "messages"),
    ],
)
async def test_bad_messages_are_named(house: House, messages: Any, param: str) -> None:
    response = await house.post(PATH, body(messages=messages))
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("model", "spoke"), [("sql", "sql@3"), ("sql@3", "sql@3"), ("base", "base")])
async def test_answers_say_which_version_spoke(house: House, stream: bool, model: str, spoke: str) -> None:
    prompts: dict[str, Any] = {
        PATH: {"messages": [USER]},
        "/v1/completions": {"prompt": "x"},
        "/v1/responses": {"input": "x"},
        "/v1/embeddings": {"input": "x"},
        "/v1/score": {"text_1": "x", "text_2": "y"},
    }
    for path, prompt in prompts.items():
        response = await house.post(path, {"model": model, "stream": stream, **prompt})
        assert response.headers.get("x-multiflora-version") == spoke


async def fingerprint(house: House, model: str = "sql") -> str:
    """The one that answers and all chunks of streams carry."""
    options = {"model": model, "stream_options": {"include_usage": True}}
    found = set()
    for path, prompt in ((PATH, {"messages": [USER]}), ("/v1/completions", {"prompt": "x"})):
        found.add((await house.post(path, {**options, **prompt})).json()["system_fingerprint"])
        *events, _ = await house.events(path, {**options, **prompt})
        found |= {event["system_fingerprint"] for event in events}
    found.add((await house.post("/v1/responses", {"model": model, "input": "x"})).json()["system_fingerprint"])
    (one,) = found
    assert re.fullmatch("fp_[0-9a-f]{16}", one)
    return str(one)


async def test_a_fingerprint_is_equal_for_equal_weights_computed_alike(house: House) -> None:
    ready = house.engine.ready
    assert ready is not None
    sql = await fingerprint(house)
    assert await fingerprint(house, "sql@3") == sql
    house.engine.ready = msgspec.structs.replace(ready, num_blocks=99, max_num_seqs=7, max_model_len=200)
    assert await fingerprint(house) == sql
    others = [await fingerprint(house, "base")]
    house.engine.ready = msgspec.structs.replace(ready, dtype="bfloat16")
    others.append(await fingerprint(house))
    house.engine.ready = msgspec.structs.replace(ready, device="cuda:0")
    others.append(await fingerprint(house))
    house.engine.ready = ready
    house.registry.digests["sql"] = "e" * 64
    others.append(await fingerprint(house))
    assert len({sql, *others}) == 5


async def test_where_the_length_turns_positions_it_is_part_of_the_fingerprint(make_house: Callable[..., House]) -> None:
    house = make_house()
    house.services.groups.default.model = replace(house.services.model, length_sets_rope=True)
    async with house.http:
        before = await fingerprint(house)
        assert house.engine.ready is not None
        house.engine.ready = msgspec.structs.replace(house.engine.ready, max_model_len=200)
        assert await fingerprint(house) != before
