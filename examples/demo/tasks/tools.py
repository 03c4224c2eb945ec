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
PLACES = ("office", "warehouse", "shop", "factory")
SKIES = ("sunny", "cloudy", "rainy", "windy", "foggy")
Arguments = dict[str, Any]


@dataclass(frozen=True)
class Tool:
    """One function. `ask` and `both` name the arguments in braces; `answer` names them and those of the result."""

    name: str
    description: str
    parameters: dict[str, str]
    arguments: Callable[[Random], Arguments]
    ask: tuple[str, ...]
    both: str
    result: Callable[[Random], Arguments]
    answer: str

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
    Tool("get_stock", "Number of items in stock.", {"item": "string", "colour": "string"},
         lambda rng: {"item": rng.choice(names.ITEMS), "colour": rng.choice(names.COLOURS)},
         ("How many {colour} {item}s do we have?", "Is there a {colour} {item} in stock?",
          "Count the {colour} {item}s."),
         "How many {a[colour]} {a[item]}s and {b[colour]} {b[item]}s do we have?",
         lambda rng: {"count": rng.randint(2, 90)},
         "There are {count} {colour} {item}s in stock."),
    Tool("create_order", "Order items for a city.", {"item": "string", "quantity": "integer", "city": "string"},
         lambda rng: {"item": rng.choice(names.ITEMS), "quantity": rng.randint(2, 60),
                      "city": rng.choice(names.CITIES)},
         ("Order {quantity} {item}s for {city}.", "Please buy {quantity} {item}s and send them to {city}.",
          "We need {quantity} more {item}s in {city}."),
         "Order {a[quantity]} {a[item]}s for {a[city]} and {b[quantity]} {b[item]}s for {b[city]}.",
         lambda rng: {"order": rng.randint(100, 999)},
         "Order {order}: {quantity} {item}s for {city}."),
    Tool("find_person", "Role and office of a colleague.", {"name": "string"},
         lambda rng: {"name": names.person(rng)},
         ("Who is {name}?", "Where does {name} work?", "What is the job of {name}?"),
         "Who are {a[name]} and {b[name]}?",
         lambda rng: {"role": rng.choice(names.ROLES), "city": rng.choice(names.CITIES)},
         "{name} works in {city} as {role}."),
    Tool("add_reminder", "Remember something for a day.", {"person": "string", "date": "string"},
         lambda rng: {"person": names.person(rng), "date": names.date(rng)},
         ("Remind me to call {person} on {date}.", "On {date} I have to meet {person}.",
          "Do not let me forget {person} on {date}."),
         "Remind me of {a[person]} on {a[date]} and of {b[person]} on {b[date]}.",
         lambda rng: {"reminders": rng.randint(2, 20)},
         "Noted: {person} on {date}."),
    Tool("get_address", "Street of one of our buildings.", {"building": "string", "city": "string"},
         lambda rng: {"building": rng.choice(PLACES), "city": rng.choice(names.CITIES)},
         ("Where is the {building} in {city}?", "How do I find our {building} in {city}?",
          "Give me the address of the {city} {building}."),
         "Where are the {a[building]} in {a[city]} and the {b[building]} in {b[city]}?",
         lambda rng: {"street": f"{names.brand(rng)} Street {rng.randint(2, 99)}"},
         "The {building} in {city} is at {street}."),
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
    kind = rng.choices(("call", "calls", "result", "none"), (4, 2, 3, 1))[0]
    if kind != "none":
        offered.insert(rng.randint(0, len(offered)), tool)
    arguments = tool.arguments(rng)
    messages: list[dict[str, Any]] = [{"role": "user", "content": rng.choice(tool.ask).format(**arguments)}]
    answer = write_calls([(tool.name, arguments)]) if kind != "none" else NO_TOOL
    if kind == "calls":
        second = tool.arguments(rng)
        messages[0]["content"] = tool.both.format(a=arguments, b=second)
        answer = write_calls([(tool.name, arguments), (tool.name, second)])
    if kind == "result":
        result = tool.result(rng)
        messages += [
            {"role": "assistant", "content": "", "tool_calls": [_call(tool, arguments)]},
            {"role": "tool", "tool_call_id": CALL_ID, "content": json.dumps(result)},
        ]
        answer = tool.answer.format(**{**arguments, **result})
    return ToolUse(tuple(messages), answer, tuple(other.definition() for other in offered))


def write_calls(calls: list[tuple[str, Arguments]]) -> str:
    """(function, arguments) as the model writes them (Hermes' form)."""
    texts = [json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False) for name, arguments in calls]
    return "\n".join(f"<tool_call>\n{text}\n</tool_call>" for text in texts)


def _call(tool: Tool, arguments: Arguments) -> dict[str, Any]:
    return {"id": CALL_ID, "type": "function", "function": {"name": tool.name, "arguments": arguments}}
