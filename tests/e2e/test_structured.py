"""Structured output and tools on a real server with the official client: types in, typed answers out."""

from __future__ import annotations

import threading
import time
from enum import Enum
from typing import Any

import openai
import pytest
from pydantic import BaseModel, Field

pytestmark = pytest.mark.slow

ASK: list[Any] = [{"role": "user", "content": "Tell me about Oslo."}]
# Patterns that all have to hold at once: the automaton of their intersection has no end.
ENDLESS = {"allOf": [{"type": "string", "pattern": f"^(.*a.{{{10 + i}}}b.*)+$"} for i in range(30)]}


class Size(Enum):
    small = "small"
    large = "large"


class Place(BaseModel):
    name: str = Field(max_length=12)
    size: Size
    people: int = Field(ge=0, le=10_000_000)


class City(BaseModel):
    """A city."""

    place: Place
    tags: list[bool] = Field(max_length=3)
    twin: Place | None


class get_weather(BaseModel):
    """Weather of a city."""

    city: str = Field(max_length=12)
    days: int = Field(ge=1, le=9)


@pytest.fixture
def client(demo: Any) -> Any:
    with demo.openai() as client:
        yield client


@pytest.mark.parametrize("model", ["multiflora-demo", "pirate"])
def test_parse_returns_objects(client: openai.OpenAI, model: str) -> None:
    for seed in range(2):
        answer = client.chat.completions.parse(
            model=model, messages=ASK, response_format=City, temperature=1, seed=seed, n=2
        )
        for choice in answer.choices:
            assert choice.finish_reason == "stop"
            assert isinstance(choice.message.parsed, City)


def test_streamed_objects(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="multiflora-demo", messages=ASK, response_format=City, temperature=1, seed=3
    ) as stream:
        kinds = {event.type for event in stream}
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, City)
    assert {"chunk", "content.delta", "content.done"} <= kinds


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_parsed_tool_calls(client: openai.OpenAI, choice: Any) -> None:
    tools = [openai.pydantic_function_tool(get_weather), openai.pydantic_function_tool(City)]
    for seed in range(2):
        answer = client.chat.completions.parse(
            model="multiflora-demo", messages=ASK, tools=tools, tool_choice=choice, temperature=1, seed=seed
        )
        assert answer.choices[0].finish_reason == "tool_calls"
        for call in answer.choices[0].message.tool_calls or []:
            assert isinstance(
                call.function.parsed_arguments, get_weather if choice != "required" else (get_weather, City)
            )


def test_streamed_tool_calls(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="multiflora-demo",
        messages=ASK,
        tools=[openai.pydantic_function_tool(get_weather)],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=1,
        seed=5,
    ) as stream:
        events = list(stream)
        (call,) = stream.get_final_completion().choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, get_weather)
    fragments = [event.arguments_delta for event in events if event.type == "tool_calls.function.arguments.delta"]
    assert "".join(fragments) == call.function.arguments
    assert len(fragments) > 2


def test_choices_and_expressions(client: openai.OpenAI) -> None:
    for extra, allowed in (
        ({"structured_outputs": {"choice": ["sunny", "rainy"]}}, {"sunny", "rainy"}),
        ({"guided_regex": "(ja|nein){2}"}, {"jaja", "janein", "neinja", "neinnein"}),
    ):
        answer = client.completions.create(
            model="multiflora-demo", prompt="Oslo is", max_tokens=20, temperature=1, n=4, extra_body=extra
        )
        assert {choice.text for choice in answer.choices} <= allowed
        assert {choice.finish_reason for choice in answer.choices} == {"stop"}


def test_pathological_schemas_are_refused_in_time_while_streams_go_on(client: openai.OpenAI) -> None:
    arrivals: list[float] = []
    begun = threading.Event()

    def watch() -> None:
        stream = client.completions.create(
            model="sql", prompt="Oslo", max_tokens=1500, stream=True, extra_body={"ignore_eos": True}
        )
        for _ in stream:
            arrivals.append(time.monotonic())
            begun.set()

    watching = threading.Thread(target=watch)
    watching.start()
    assert begun.wait(30)
    began = time.monotonic()
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": ENDLESS}}
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="multiflora-demo", messages=ASK, response_format=schema)  # type: ignore[call-overload]
    ended = time.monotonic()
    watching.join(120)
    assert refused.value.code == "invalid_grammar"
    assert sum(began < arrival < ended for arrival in arrivals) > 5, "the stream went on meanwhile"
