"""/v1/responses: items in, one object or OpenAI's events out, read by the official client; stateless, and says so."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import openai
import pytest
from tests.platform.gateway.house import TEMPLATE, House
from tests.platform.gateway.test_openai_client import REPLY, client

from multiflora_engine.protocol.requests import EngineFailure
from multiflora_platform.messages.reasoning import REASONING_FORMATS
from multiflora_platform.messages.tool_formats import HERMES
from multiflora_platform.text.chat_template import ChatTemplates

__all__ = ["client"]
PATH = "/v1/responses"
LOGPROBS = "message.output_text.logprobs"


async def events(house: House, body: dict[str, Any]) -> list[dict[str, Any]]:
    response = await house.post(PATH, {"model": "sql", "input": "Hi", "stream": True, **body})
    assert response.status_code == 200, response.text
    frames = [frame.split("\n") for frame in response.text.split("\n\n") if frame]
    for name, data in frames:
        assert name == f"event: {json.loads(data.removeprefix('data: '))['type']}"
    return [json.loads(data.removeprefix("data: ")) for _, data in frames]


def prompt(house: House) -> str:
    return house.services.model.tokenizer.decode(house.engine.requests[-1].prompt_token_ids)


async def test_a_text(house: House) -> None:
    body = {"model": "sql", "input": "Hi", "instructions": "Be brief.", "metadata": {"a": "b"}, "temperature": 0.5}
    answer = (await house.post(PATH, body)).json()
    assert prompt(house) == "<|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|>"
    assert (answer["object"], answer["status"], answer["model"]) == ("response", "completed", "sql")
    assert (answer["metadata"], answer["instructions"], answer["temperature"]) == ({"a": "b"}, "Be brief.", 0.5)
    (item,) = answer["output"]
    assert (item["type"], item["role"], item["status"]) == ("message", "assistant", "completed")
    assert item["content"] == [{"type": "output_text", "text": REPLY, "annotations": [], "logprobs": []}]
    assert answer["usage"]["total_tokens"] == answer["usage"]["input_tokens"] + answer["usage"]["output_tokens"]
    count = answer["usage"]["input_tokens"]
    assert answer["usage"]["input_tokens_details"] == {"cached_tokens": count // 2, "cache_write_tokens": count // 3}


async def test_items(house: House) -> None:
    """Earlier answers come back as they were given; summaries of reasoning are left out."""
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Greets."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello"}]},
        {"role": "user", "content": "Bye"},
    ]
    assert (await house.post(PATH, {"model": "base", "input": items})).status_code == 200
    assert prompt(house) == "<|user|>Hi<|end|><|assistant|>Hello<|end|><|user|>Bye<|end|><|assistant|>"


TURNS = """{% for m in messages %}<{{ m.role }}>{% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}{{
 m.content or '' }}{% for c in m.tool_calls or [] %}[{{ c.function.name
}}]{% endfor %}{% endfor %}"""


@pytest.mark.parametrize(
    ("kinds", "turn"),
    [
        ("tmc", "<assistant>(Rain?)Let me see.[get_weather]"),
        ("tc", "<assistant>(Rain?)[get_weather]"),
        ("tcc", "<assistant>(Rain?)[get_weather][get_weather]"),
        ("tmtc", "<assistant>(Rain?\nRain?)Let me see.[get_weather]"),
        ("ttm", "<assistant>(Rain?\nRain?)Let me see."),
        ("t", ""),
        ("tu", "<user>Bye"),
    ],
)
async def test_reasoning_text_and_calls_of_a_turn_are_one_message(
    house: House, monkeypatch: pytest.MonkeyPatch, kinds: str, turn: str
) -> None:
    monkeypatch.setattr(house.services.model.tokenizer, "templates", ChatTemplates({"default": TURNS}))
    item = {
        "t": {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Rain?"}]},
        "m": {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]},
        "c": {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": "{}"},
        "u": {"role": "user", "content": "Bye"},
    }
    items = [{"role": "user", "content": "Hi"}, *(item[kind] for kind in kinds)]
    answer = await house.post(PATH, {"model": "base", "input": items})
    assert answer.status_code == 200, answer.text
    assert prompt(house) == f"<user>Hi{turn}"


@pytest.mark.parametrize("content", ["Rain?", 3, [3], [{"type": "reasoning_text"}], [{"text": None}]], ids=str)
async def test_reasoning_that_is_no_text_is_named(house: House, content: Any) -> None:
    items = [{"role": "user", "content": "x"}, {"type": "reasoning", "content": content}]
    answer = await house.post(PATH, {"model": "base", "input": items})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input[1].content")


async def test_there_is_nothing_hidden_to_include(house: House) -> None:
    """Agents ask for it whatever the model."""
    body = {"model": "base", "input": "a", "include": ["reasoning.encrypted_content", "file_search_call.results"]}
    assert (await house.post(PATH, body)).json()["output"]


async def test_the_only_allowed_tool(house: House) -> None:
    tools = [{"type": "function", "name": name, "parameters": {}} for name in ("one", "two")]
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "two"}]}
    answer = (await house.post(PATH, {"model": "base", "input": "a", "tools": tools, "tool_choice": choice})).json()
    assert answer["tool_choice"] == choice
    grammar = house.engine.requests[-1].grammar or ""
    assert "two" in grammar
    assert "one" not in grammar.replace("None", "")


async def test_the_longest_answer_is_incomplete(house: House) -> None:
    answer = (await house.post(PATH, {"model": "base", "input": "a", "max_output_tokens": 3})).json()
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert answer["output"][0]["status"] == "incomplete"


async def test_a_stream_is_openais_sequence_of_events(house: House) -> None:
    found = await events(house, {"include": [LOGPROBS], "top_logprobs": 1})
    kinds = [event["type"] for event in found]
    deltas = [event for event in found if event["type"] == "response.output_text.delta"]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[4:-4] == ["response.output_text.delta"] * len(deltas)
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert "".join(event["delta"] for event in deltas) == REPLY == found[-4]["text"]
    assert all(event["logprobs"][0]["top_logprobs"] for event in deltas)
    assert found[-1]["response"]["output"][0]["content"][0]["text"] == REPLY
    assert found[0]["response"]["id"] == found[-1]["response"]["id"]


async def test_a_failure_within_a_stream(house: House) -> None:
    house.engine.failure, house.engine.fail_after = EngineFailure("engine_dead", "It died."), 2
    found = await events(house, {})
    assert [event["type"] for event in found[-2:]] == ["error", "response.failed"]
    assert (found[-2]["code"], found[-1]["response"]["error"]["code"]) == ("engine_dead", "engine_dead")
    assert not house.services.active


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["everything"]}, "include"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"n": 2}, "n"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"not": {}}}}}, "text.format"),
        ({"input": []}, "input"),
        ({"input": [{"role": "alien", "content": "x"}]}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": "a" * 300}, "input"),
        ({"max_output_tokens": 10**6}, "max_output_tokens"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"temperature": 9e999}, "temperature"),
    ],
)
async def test_refusals(house: House, fields: dict[str, Any], param: str) -> None:
    content = json.dumps({"model": "base", "input": "a", **fields}).replace("Infinity", '"x"')
    response = await house.http.post(PATH, content=content)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert "messages" not in error["message"]
    assert not house.engine.requests


async def test_the_official_client(client: openai.AsyncOpenAI) -> None:
    answer = await client.responses.create(model="sql", input="Hi")
    assert answer.output_text == REPLY
    async with client.responses.stream(model="sql", input="Hi") as stream:
        texts = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert "".join(texts) == final.output_text == REPLY
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model="sql", input="Hi", previous_response_id="resp_1")
    assert refused.value.param == "previous_response_id"


# ---- function calls and reasoning

TOOLS = [{"type": "function", "name": "get_weather", "parameters": {"type": "object"}}]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


@pytest.fixture
def thinker(house: House) -> House:
    """Thinks, says something and calls twice."""
    model = house.services.model
    house.services.groups.default.model = replace(
        model, tool_format=HERMES, reasoning_format=REASONING_FORMATS["qwen3"]
    )
    house.engine.reply = f"<think>Rain?</think>Let me see.\n{CALL}\n{CALL}"
    return house


async def test_calls_and_reasoning_are_items(thinker: House) -> None:
    answer = (await thinker.post(PATH, {"model": "base", "input": "Weather?", "tools": TOOLS})).json()
    reasoning, message, *calls = answer["output"]
    assert (reasoning["type"], reasoning["content"][0]["text"]) == ("reasoning", "Rain?")
    assert (message["type"], message["content"][0]["text"]) == ("message", "Let me see.")
    for call in calls:
        assert (call["type"], call["name"], call["arguments"]) == ("function_call", "get_weather", '{"city": "Oslo"}')
    assert len({item["id"] for item in answer["output"]}) == len({call["call_id"] for call in calls}) + 2 == 4


async def test_streamed_calls_and_reasoning(thinker: House) -> None:
    found = await events(thinker, {"tools": TOOLS, "include": [LOGPROBS]})
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    items = [event["item"]["type"] for event in found if event["type"] == "response.output_item.added"]
    assert items == ["reasoning", "message", "function_call", "function_call"]
    done = [event["item"] for event in found if event["type"] == "response.output_item.done"]
    assert done == found[-1]["response"]["output"]
    arguments = [event for event in found if event["type"] == "response.function_call_arguments.delta"]
    for index in (2, 3):
        assert "".join(e["delta"] for e in arguments if e["output_index"] == index) == '{"city": "Oslo"}'
    thoughts = [event["delta"] for event in found if event["type"] == "response.reasoning_text.delta"]
    assert "".join(thoughts) == "Rain?"


async def test_the_official_client_reads_calls_and_sends_their_results(
    thinker: House, client: openai.AsyncOpenAI
) -> None:
    async with client.responses.stream(model="base", input="Weather?", tools=TOOLS) as stream:
        kinds = {event.type async for event in stream}
        final = await stream.get_final_response()
    assert "response.function_call_arguments.done" in kinds
    calls = [item for item in final.output if item.type == "function_call"]
    assert [call.arguments for call in calls] == ['{"city": "Oslo"}'] * 2
    thinker.engine.reply = "It rains."
    results = [{"type": "function_call_output", "call_id": call.call_id, "output": "rain"} for call in calls]
    messages = [{"role": "user", "content": "Weather?"}, *results]
    answer = await client.responses.create(model="base", input=messages, tools=TOOLS)
    assert answer.output_text == "It rains."


@pytest.mark.parametrize("output", [None, [], {"a": 1}, 42], ids=str)
async def test_a_calls_output_that_is_no_text_is_named(house: House, output: Any) -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    items = [{"role": "user", "content": "x"}, call, {"type": "function_call_output", "call_id": "c", "output": output}]
    error = (await house.post("/v1/responses", {"model": "base", "input": items})).json()["error"]
    assert error["param"] == "input[2].output"


@pytest.mark.parametrize("output", ["", [{"type": "input_text", "text": ""}]], ids=str)
async def test_a_calls_output_may_be_empty(house: House, monkeypatch: pytest.MonkeyPatch, output: Any) -> None:
    """As a command's often is. The template is one that can do without the content of a call."""
    template = TEMPLATE.replace("message['content']", "message['content'] | default('', true)")
    monkeypatch.setattr(house.services.model.tokenizer, "templates", ChatTemplates({"default": template}))
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    items = [{"role": "user", "content": "x"}, call, {"type": "function_call_output", "call_id": "c", "output": output}]
    response = await house.post(PATH, {"model": "base", "input": items})
    assert response.status_code == 200, response.text
    assert prompt(house) == "<|user|>x<|end|><|assistant|><|end|><|tool|><|end|><|assistant|>"
