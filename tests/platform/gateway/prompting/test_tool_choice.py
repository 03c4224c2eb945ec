"""Tools and reasoning over HTTP: in answers and streams as OpenAI writes them, and what of them reaches the engine."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.platform.gateway.house import House

from multiflora_platform.gateway.prompting.tool_choice import offered_tools
from multiflora_platform.messages.reasoning import REASONING_FORMATS
from multiflora_platform.messages.tool_formats import TOOL_FORMATS

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
CHAT: dict[str, Any] = {
    "model": "base",
    "messages": [{"role": "user", "content": "Weather in Oslo?"}],
    "tools": [WEATHER, CLOCK],
}
ARGUMENTS = '{"city": "Oslo"}'
CALL = f'<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
PATH = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def _writes_as_hermes(house: House) -> None:
    house.services.groups.default.model = replace(house.services.model, tool_format=TOOL_FORMATS["hermes"])
    house.engine.reply = f"Let me see.\n{CALL}"


async def ask(house: House, **fields: Any) -> dict[str, Any]:
    response = await house.post(PATH, {**CHAT, **fields})
    assert response.status_code == 200, response.text
    return dict(response.json()["choices"][0])


def grammar(house: House) -> str:
    return house.engine.requests[-1].grammar or ""


async def test_calls_of_an_answer(house: House) -> None:
    house.engine.reply = f"{CALL}\n{CALL}"
    choice = await ask(house, logprobs=True)
    message = choice["message"]
    assert (choice["finish_reason"], message["content"]) == ("tool_calls", None)
    assert [call["function"] for call in message["tool_calls"]] == [{"name": "get_weather", "arguments": ARGUMENTS}] * 2
    assert {call["type"] for call in message["tool_calls"]} == {"function"}
    assert len({call["id"] for call in message["tool_calls"]}) == 2
    assert len(choice["logprobs"]["content"]) == len(house.engine.reply) + 1
    assert not grammar(house), "the model is free to call"


async def test_an_answer_that_calls_nothing_is_text(house: House) -> None:
    house.engine.reply = "It is cold."
    choice = await ask(house)
    assert choice["finish_reason"] == "stop"
    assert choice["message"] == {"role": "assistant", "content": "It is cold.", "refusal": None}


async def test_an_answer_that_was_cut_says_so(house: House) -> None:
    assert (await ask(house, max_tokens=60))["finish_reason"] == "length"


async def test_streamed_calls(house: House) -> None:
    events = await house.events(PATH, {**CHAT, "stream_options": {"include_usage": True}})
    assert events[-1] == "[DONE]"
    deltas = [event["choices"][0]["delta"] for event in events[:-1] if event["choices"]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == "Let me see."
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    first = calls[0]
    assert first["id"].startswith("call_")
    assert (first["index"], first["type"]) == (0, "function")
    assert first["function"] == {"name": "get_weather", "arguments": ""}
    assert all(set(call) == {"index", "function"} and set(call["function"]) == {"arguments"} for call in calls[1:])
    assert "".join(call["function"]["arguments"] for call in calls) == ARGUMENTS
    assert len(calls) > 5, "arguments go out as they come"
    assert events[-3]["choices"][0]["finish_reason"] == "tool_calls"
    assert events[-2]["usage"]["completion_tokens"] == len(house.engine.reply) + 1


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("llama3_json", f'{{"name": "get_weather", "parameters": {ARGUMENTS}}}'),
        ("mistral", f"[TOOL_CALLS]get_weather[ARGS]{ARGUMENTS}"),
        ("pythonic", "[get_weather(city='Oslo')]"),
        ("qwen3_coder", "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n</function>"),
    ],
)
async def test_calls_of_every_form(house: House, kind: str, text: str) -> None:
    house.services.groups.default.model = replace(house.services.model, tool_format=TOOL_FORMATS[kind])
    house.engine.reply = text
    (call,) = (await ask(house))["message"]["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": ARGUMENTS}
    events = await house.events(PATH, CHAT)
    deltas = [event["choices"][0]["delta"] for event in events[:-1]]
    functions = [delta["tool_calls"][0]["function"] for delta in deltas if "tool_calls" in delta]
    assert functions[0] == {"name": "get_weather", "arguments": ""}
    assert "".join(function["arguments"] for function in functions) == ARGUMENTS
    assert not any(delta.get("content") for delta in deltas)
    assert events[-2]["choices"][0]["finish_reason"] == "tool_calls"


async def test_streams_of_several_answers_keep_their_calls_apart(house: House) -> None:
    events = await house.events(PATH, {**CHAT, "n": 2, "return_token_ids": True})
    for index in range(2):
        choices = [e["choices"][0] for e in events[:-1] if e["choices"][0]["index"] == index]
        calls = [c["delta"]["tool_calls"][0] for c in choices if "tool_calls" in c["delta"]]
        assert "".join(call["function"]["arguments"] for call in calls) == ARGUMENTS
        ids = [token for choice in choices for token in choice.get("token_ids", [])]
        assert len(ids) == len(house.engine.reply) + 1


async def test_only_one_call_without_parallel_calls(house: House) -> None:
    house.engine.reply = f"{CALL}\n{CALL}"
    assert len((await ask(house, parallel_tool_calls=False))["message"]["tool_calls"]) == 1


async def test_required_and_named_calls_are_enforced(house: House) -> None:
    await ask(house, tool_choice="required")
    assert "get_weather" in grammar(house)
    assert "clock" in grammar(house)
    await ask(house, tool_choice={"type": "function", "function": {"name": "clock"}})
    assert "get_weather" not in grammar(house)
    schemas = [part["json_schema"] for part in json.loads(grammar(house))["grammars"] if "json_schema" in part]
    assert schemas[0]["additionalProperties"] is False, "a function without parameters takes none"


async def test_allowed_tools_are_the_only_ones_that_may_be_called(house: House) -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "clock"}}]}
    await ask(house, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert "clock" in grammar(house)
    assert "get_weather" not in grammar(house)
    choice = await ask(house, tool_choice={"type": "allowed_tools", "allowed_tools": {**allowed, "mode": "auto"}})
    assert choice["message"]["tool_calls"]
    assert not grammar(house), "free to call, and free not to"


async def test_a_call_that_was_cut_behind_another_is_no_text(house: House) -> None:
    for rest in ("\n<", "\n<tool_call>\n", '\n<tool_call>\n{"na'):
        house.engine.reply = CALL + rest
        message = (await ask(house))["message"]
        assert (message["content"], len(message["tool_calls"])) == (None, 1)


async def test_strict_functions_are_enforced_where_they_are_called(house: House) -> None:
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    await ask(house, tools=[strict, CLOCK])
    parts = json.loads(grammar(house))["grammars"]
    assert parts[1]["json_schema"]["additionalProperties"] is False
    assert "(.|" in parts[0]["lark_grammar"], "text stays free"


async def test_none_means_that_the_model_sees_no_tools(house: House) -> None:
    choice = await ask(house, tool_choice="none")
    assert choice["message"]["content"] == house.engine.reply
    assert choice["finish_reason"] == "stop"


async def test_a_response_format_is_for_answers_that_call_nothing(house: House) -> None:
    await ask(house, response_format={"type": "json_schema", "json_schema": {"schema": {"title": "Answer"}}})
    assert "Answer" in grammar(house)
    assert "get_weather" in grammar(house)


async def test_a_model_whose_form_nobody_knows_calls_only_when_it_must(house: House) -> None:
    house.services.groups.default.model = replace(house.services.model, tool_format=None)
    assert (await ask(house))["message"]["content"] == house.engine.reply
    assert (await ask(house, tool_choice="required"))["message"]["tool_calls"]
    assert "get_weather" in grammar(house)


async def test_ids_and_special_markers_of_mistral(house: House) -> None:
    house.services.groups.default.model = replace(house.services.model, tool_format=TOOL_FORMATS["mistral"])
    house.engine.reply = f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {ARGUMENTS}}}]'
    (call,) = (await ask(house))["message"]["tool_calls"]
    assert len(call["id"]) == 9
    assert house.engine.requests[-1].params.skip_special_tokens


BAD: list[tuple[dict[str, Any], str]] = [
    ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}, "tools[0].function.parameters"),
    ({"tools": [CLOCK] * 129}, "tools"),
    ({"tool_choice": "always"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "nobody"}}}, "tool_choice"),
    ({"tool_choice": {"type": "function"}}, "tool_choice"),
    ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
    ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}}, "tool_choice"),
    (
        {
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "nobody"}}]},
            }
        },
        "tool_choice",
    ),
    ({"tools": None, "tool_choice": "required"}, "tool_choice"),
]


@pytest.mark.parametrize(("fields", "param"), BAD)
async def test_what_cannot_be_called_is_a_400(house: House, fields: dict[str, Any], param: str) -> None:
    response = await house.post(PATH, {**CHAT, **fields})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, "invalid_value")


async def test_a_schema_that_cannot_be_enforced_is_a_400_only_where_it_must_be(house: House) -> None:
    odd = {"type": "function", "function": {"name": "f", "parameters": {"if": {}}}}
    assert (await house.post(PATH, {**CHAT, "tools": [odd]})).status_code == 200
    response = await house.post(PATH, {**CHAT, "tools": [odd], "tool_choice": "required"})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, "tools", "invalid_grammar")


# ---- reasoning


@pytest.fixture
def reasons(house: House) -> House:
    house.services.groups.default.model = replace(house.services.model, reasoning_format=REASONING_FORMATS["qwen3"])
    house.engine.reply = f"<think>\nIt may rain.</think>\n\n{CALL}"
    return house


async def test_reasoning_stands_apart(reasons: House) -> None:
    message = (await ask(reasons))["message"]
    assert message["reasoning"] == message["reasoning_content"] == "It may rain."
    assert message["content"] is None
    assert message["tool_calls"][0]["function"]["arguments"] == ARGUMENTS
    assert "reasoning" not in (await ask(reasons, include_reasoning=False))["message"]


async def test_streamed_reasoning(reasons: House) -> None:
    events = await reasons.events(PATH, CHAT)
    deltas = [event["choices"][0]["delta"] for event in events[:-1]]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "It may rain."
    assert "".join(delta.get("reasoning", "") for delta in deltas) == "It may rain."
    assert "".join(delta.get("content", "") for delta in deltas) == ""
    hidden = await reasons.events(PATH, {**CHAT, "include_reasoning": False})
    assert not any("reasoning" in event["choices"][0]["delta"] for event in hidden[:-1])


async def test_structure_begins_after_the_reasoning(reasons: House) -> None:
    reasons.engine.reply = '<think>hm</think>{"a": 1}'
    choice = await ask(reasons, tools=None, response_format={"type": "json_object"})
    assert json.loads(choice["message"]["content"]) == {"a": 1}
    assert "<think>" in grammar(reasons)


def test_nulls_in_tools_are_left_out_and_values_that_are_null_stay() -> None:
    schema = {
        "type": "object",
        "description": None,
        "required": None,
        "properties": {
            "unit": {"enum": ["C", None], "default": None, "items": None},
            "default": {"type": "string", "title": None},
            "none": None,
        },
    }
    function = {"name": "f", "description": None, "strict": None, "parameters": schema}
    [tool, bare] = (
        offered_tools(
            [
                {"type": "function", "function": function},
                {"type": "function", "function": {"name": "g", "parameters": None}},
            ]
        )
        or ()
    )
    properties = {"unit": {"enum": ["C", None], "default": None}, "default": {"type": "string"}}
    assert tool["function"] == {"name": "f", "parameters": {"type": "object", "properties": properties}}
    assert bare == {"type": "function", "function": {"name": "g"}}
    assert offered_tools([]) is None
    assert offered_tools([{"function": {"name": "g"}}]) == [bare]


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
async def test_tools_with_nulls_are_served(house: House, choice: str) -> None:
    function = {"name": "clock", "description": None, "parameters": None, "strict": None}
    await ask(house, tools=[{"type": "function", "function": function}], tool_choice=choice)
    for untyped in ({"type": None, "function": function}, {"function": function}):
        await ask(house, tools=[untyped], tool_choice=choice)
    parameters = {"type": "object", "properties": {"zone": {"type": "string", "items": None, "enum": None}}}
    nested = {"name": "clock", "parameters": parameters, "strict": True}
    await ask(house, tools=[{"type": "function", "function": nested}], tool_choice=choice)
