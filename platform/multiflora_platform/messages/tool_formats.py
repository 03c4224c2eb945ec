"""How models write tool calls: the forms that servers know by name, what in a chat template gives them away, and their
grammars. Reading them is tool_readers.py's work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from multiflora_platform.structured.formats import (
    Format,
    const,
    either,
    json_schema,
    sequence,
    tag,
    tags_with_separator,
    triggered_tags,
)


@dataclass(frozen=True)
class Tool:
    """parameters: the JSON schema of its arguments."""

    name: str
    parameters: dict[str, Any]


Write = Callable[[Sequence[Tool], bool], Format]


@dataclass(frozen=True)
class ToolFormat:
    """kind: which reader reads it. markers: what may be special tokens of the vocabulary.

    calls(tools, only_one): one call, or several, and nothing else. optional_calls: free text with calls in it.
    """

    kind: str
    markers: tuple[str, ...]
    calls: Write
    optional_calls: Write


def _hermes_tags(tools: Sequence[Tool]) -> list[Format]:
    return [_tag("<tool_call>\n", "arguments", tool, "\n</tool_call>") for tool in tools]


def _hermes(tools: Sequence[Tool], only_one: bool) -> Format:
    return tags_with_separator(_hermes_tags(tools), "\n", only_one)


def _optional_hermes(tools: Sequence[Tool], only_one: bool) -> Format:
    return triggered_tags("<tool_call>", _hermes_tags(tools), only_one)


def _llama(tools: Sequence[Tool], only_one: bool) -> Format:
    return tags_with_separator([_tag("", "parameters", tool, "") for tool in tools], "; ", only_one)


def _optional_llama(tools: Sequence[Tool], only_one: bool) -> Format:
    """A text that begins with a brace is a call."""
    return either(_llama(tools, only_one), {"type": "regex", "pattern": r"([^{](.|\n)*)?"})


def _mistral(tools: Sequence[Tool], only_one: bool) -> Format:
    calls = tags_with_separator([_tag("", "arguments", tool, "") for tool in tools], ", ", only_one)
    return sequence(const("[TOOL_CALLS]["), calls, const("]"))


def _optional_mistral(tools: Sequence[Tool], only_one: bool) -> Format:
    calls = tags_with_separator([_tag("", "arguments", tool, "") for tool in tools], ", ", only_one)
    return triggered_tags("[TOOL_CALLS]", [tag("[TOOL_CALLS][", calls, "]")], only_one=True)


def _tag(before: str, key: str, tool: Tool, after: str) -> Format:
    begin = f'{before}{{"name": {json.dumps(tool.name)}, "{key}": '
    return tag(begin, json_schema(tool.parameters), "}" + after)


HERMES = ToolFormat("hermes", ("<tool_call>", "</tool_call>"), _hermes, _optional_hermes)
# Names as vLLM's --tool-call-parser has them; Qwen 2.5 and 3 write as Hermes does.
TOOL_FORMATS = {
    "hermes": HERMES,
    "qwen": HERMES,
    "llama3_json": ToolFormat("llama3_json", ("<|python_tag|>",), _llama, _optional_llama),
    "mistral": ToolFormat("mistral", ("[TOOL_CALLS]",), _mistral, _optional_mistral),
}
_SIGNS = (
    ("[TOOL_CALLS]", "mistral"),
    ("<tool_call>", "hermes"),
    ("<|python_tag|>", "llama3_json"),
    ('"parameters": dictionary of argument name', "llama3_json"),
)
# Qwen3-Coder's calls are XML inside Hermes' tags.
_UNKNOWN = ("<function=",)


def detect(template: str) -> ToolFormat | None:
    """The form that a chat template shows calls in; None for one that we do not know."""
    if any(sign in template for sign in _UNKNOWN):
        return None
    return next((TOOL_FORMATS[name] for sign, name in _SIGNS if sign in template), None)
