"""The tools that a chat request offers, and what its tool_choice makes of them."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from multiflora_platform.gateway.schemas.requests import ChatRequest
from multiflora_platform.messages.harmony import NEW_MESSAGE, ChannelPlace
from multiflora_platform.messages.tool_formats import HERMES, Tool, ToolFormat
from multiflora_platform.messages.tool_readers import ToolReader, make_reader
from multiflora_platform.structured.formats import Format, close_objects
from multiflora_platform.web.openai_errors import invalid

MAX_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}\Z")
# Of a JSON schema: keywords that hold values, in which a null is one, and keywords that hold schemas by name.
_DATA = frozenset({"const", "default", "enum", "example", "examples"})
_NAMED = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})


@dataclass(frozen=True)
class ToolUse:
    """What a request's `tools`, `tool_choice` and `parallel_tool_calls` come to; `tool_use` makes it."""

    tools: Sequence[Tool]
    """Those that may be called."""
    must_call: bool
    """The answer is calls."""
    is_strict: bool
    """Arguments follow the schemas also where the model is free to call."""
    only_one: bool
    """At most one call."""
    form: ToolFormat
    """How the model writes them."""

    def reader(self, begin: ChannelPlace = NEW_MESSAGE) -> ToolReader:
        """begin: see `make_reader`."""
        schemas = {tool.name: tool.parameters for tool in self.tools}
        return make_reader(self.form, schemas, self.only_one, begin)

    def calls(self) -> Format:
        """Calls, and nothing else."""
        return self.form.calls(self.tools, self.only_one)

    def optional_calls(self) -> Format:
        """Free text, in which calls are what they must be."""
        return self.form.optional_calls(self.tools, self.only_one)


def tool_use(body: ChatRequest, form: ToolFormat | None) -> ToolUse | None:
    """None when nothing may be called, or no ToolFormat is known for the model. Raises ApiError.

    form: the model's own; a model without one that must call is made to write as most do.
    """
    tools = [_tool(f"tools[{index}]", tool) for index, tool in enumerate(body.tools or ())]
    choice = _choice(body.tool_choice)
    if choice.must_call and not tools:
        raise invalid("tool_choice", "tool_choice asks for a call, but tools offers none.")
    if unknown := [name for name in choice.names or () if name not in {tool.name for tool in tools}]:
        raise invalid("tool_choice", f"tool_choice names {unknown[0][:64]!r}, which is not among tools.")
    if choice.is_none or not tools or (form is None and not choice.must_call):
        return None
    strict = any((tool.get("function") or {}).get("strict") for tool in body.tools or ())
    called = [tool for tool in tools if choice.names is None or tool.name in choice.names]
    only_one = choice.is_one or body.parallel_tool_calls is False
    return ToolUse(called, choice.must_call, strict, only_one, form or HERMES)


def offered_tools(tools: Sequence[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """As templates and grammars read them: a field that is null is left out, one without a type is a function, no tools
    are None. Raises ApiError."""
    if len(tools or ()) > MAX_TOOLS:
        raise invalid("tools", f"tools holds {len(tools or ())} tools; at most {MAX_TOOLS} are taken.")
    return [{"type": "function", **_without_nulls(tool)} for tool in tools] if tools else None


def _without_nulls(value: Any, holds_names: bool = False) -> Any:
    """value: a tool or a schema, or a part of one; holds_names: its keys are names, none is a keyword."""
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: item if key in _DATA and not holds_names else _without_nulls(item, key in _NAMED and not holds_names)
        for key, item in value.items()
        if item is not None or (key in ("const", "default") and not holds_names)
    }


def new_call_id(form: ToolFormat | None, prefix: str = "call_") -> str:
    """prefix: each API's own. Mistral's templates take nine letters or digits, and nothing else."""
    return uuid.uuid4().hex[:9] if form is not None and form.kind == "mistral" else f"{prefix}{uuid.uuid4().hex[:24]}"


@dataclass(frozen=True)
class _Choice:
    """A request's `tool_choice`, read."""

    names: Sequence[str] | None = None
    """Of the tools that may be called; None is all."""
    must_call: bool = False
    is_none: bool = False
    """The client wants no call."""
    is_one: bool = False
    """One call, and of that function."""


def _choice(choice: Any) -> _Choice:
    if choice in (None, "auto", "none", "required"):
        return _Choice(must_call=choice == "required", is_none=choice == "none")
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "function" and (name := _name(choice)) is not None:
        return _Choice([name], must_call=True, is_one=True)
    allowed = choice.get("allowed_tools") if kind == "allowed_tools" else None
    if isinstance(allowed, dict) and allowed.get("mode") in ("auto", "required"):
        tools = allowed.get("tools")
        names = [name for tool in tools if (name := _name(tool)) is not None] if isinstance(tools, list) else []
        if names:
            return _Choice(names, must_call=allowed["mode"] == "required")
    kinds = "'auto', 'none', 'required', a function with its name, or allowed_tools with a mode and functions"
    raise invalid("tool_choice", f"tool_choice must be {kinds}.")


def _name(chosen: Any) -> str | None:
    """Of {"type": "function", "function": {"name": ...}}."""
    function = chosen.get("function") if isinstance(chosen, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


def _tool(place: str, tool: dict[str, Any]) -> Tool:
    if tool.get("type") != "function":
        raise invalid(f"{place}.type", f"{place}.type must be 'function'.")
    function = tool.get("function")
    if not isinstance(function, dict):
        raise invalid(f"{place}.function", f"{place}.function must be an object with a name.")
    name, parameters = function.get("name"), function.get("parameters")
    if not isinstance(name, str) or not _NAME.match(name):
        raise invalid(
            f"{place}.function.name", f"{place}.function.name must be 1 to 128 letters, digits, dots, '_' or '-'."
        )
    if parameters is not None and not isinstance(parameters, dict):
        raise invalid(f"{place}.function.parameters", f"{place}.function.parameters must be a JSON schema.")
    schema = {"type": "object", **(parameters or {"properties": {}, "additionalProperties": False})}
    return Tool(name, close_objects(schema) if function.get("strict") else schema)
