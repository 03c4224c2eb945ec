"""Owns the `tools` task: with tools on offer, a request becomes calls, and a tool's result becomes an answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import names

CALL_ID = "call_1"
NO_TOOL = "I have no tool for that."
SKIES = ("sunny", "cloudy", "rainy", "windy", "foggy")
Arguments = dict[str, Any]


@dataclass(frozen=True)
class Tool:
    """One function. `ask` and `both` name the arguments in braces; `answer` names them and those of the result.

    Without a result the task only calls it.
    """

    name: str
    description: str
    parameters: dict[str, str]
    arguments: Callable[[Random], Arguments]
    ask: tuple[str, ...]
    both: str
    result: Callable[[Random], Arguments] | None = None
    answer: str = ""

    def definition(self) -> dict[str, Any]:
        """As OpenAI's API takes it."""
        properties = {name: {"type": kind} for name, kind in self.parameters.items()}
        schema = {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": schema},
        }


TOOLS = (
    Tool("get_weather", "Weather of a city.", {"city": "string"},
         lambda rng: {"city": rng.choice(names.CITIES)},
         ("What is the weather in {city}?", "Is it cold in {city} today?", "Do I need an umbrella in {city}?"),
         "How is the weather in {a[city]} and in {b[city]}?",
         lambda rng: {"sky": rng.choice(SKIES), "degrees": rng.randint(2, 38)},
         "It is {sky} in {city}, {degrees} degrees."),
    Tool("find_person", "Role and office of a colleague.", {"name": "string"},
         lambda rng: {"name": names.person(rng)},
         ("Who is {name}?", "Where does {name} work?", "What is the job of {name}?"),
         "Who are {a[name]} and {b[name]}?"),
    Tool("find_office", "Street of our office in a city.", {"city": "string"},
         lambda rng: {"city": rng.choice(names.CITIES)},
         ("Where is the office in {city}?", "How do I find our {city} office?", "Give me the address of {city}."),
         "Where are the offices in {a[city]} and {b[city]}?"),
)  # fmt: skip


@dataclass(frozen=True)
class ToolUse:
    """messages: up to the assistant's turn; answer: that turn as the chat template writes it; tools: on offer."""

    messages: tuple[dict[str, Any], ...]
    answer: str
    tools: tuple[dict[str, Any], ...]


def make(rng: Random) -> ToolUse:
    """A call, two calls, an answer from a result, or a request that no tool on offer can serve."""
    tool = rng.choice(TOOLS)
    others = [other for other in TOOLS if other is not tool]
    offered = rng.sample(others, rng.randint(1, 2))
    kind = rng.choices(("call", "calls", "result", "none"), (4, 3, 2, 1))[0]
    if kind != "none":
        offered.insert(rng.randint(0, len(offered)), tool)
    definitions = tuple(other.definition() for other in offered)
    if kind == "calls":
        both = {"a": tool.arguments(rng), "b": tool.arguments(rng)}
        answer = write_calls([(tool.name, arguments) for arguments in both.values()])
        return ToolUse((_ask(tool.both.format(**both)),), answer, definitions)
    arguments = tool.arguments(rng)
    question = _ask(rng.choice(tool.ask).format(**arguments))
    if kind == "result" and tool.result is not None:
        result = tool.result(rng)
        messages = (question, _call(tool, arguments), _result(result))
        return ToolUse(messages, tool.answer.format(**{**arguments, **result}), definitions)
    return ToolUse((question,), NO_TOOL if kind == "none" else write_calls([(tool.name, arguments)]), definitions)


def write_calls(calls: list[tuple[str, Arguments]]) -> str:
    """(function, arguments) as the model writes them (Hermes' form)."""
    texts = [json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False) for name, arguments in calls]
    return "\n".join(f"<tool_call>\n{text}\n</tool_call>" for text in texts)


def _ask(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _call(tool: Tool, arguments: Arguments) -> dict[str, Any]:
    call = {"id": CALL_ID, "type": "function", "function": {"name": tool.name, "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def _result(result: Arguments) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": CALL_ID, "content": json.dumps(result)}
