"""How models write tool calls: the forms that servers know by name, what in a chat template gives them away, and their
grammars. Reading them is tool_readers.py's work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from multiflora_platform.messages.argument_formats import python_call, xml_call
from multiflora_platform.messages.harmony import CHANNEL, CONSTRAIN, HARMONY_MARKERS, MESSAGE, START
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
    """A function on offer; the gateway fills it from the request."""

    name: str
    # The JSON schema of its arguments.
    parameters: dict[str, Any]


# (tools, only_one) to the format that grammars are made of.
Write = Callable[[Sequence[Tool], bool], Format]


@dataclass(frozen=True)
class ToolFormat:
    """One way of writing calls: how a grammar asks for it, and which reader finds it."""

    # Names the reader in tool_readers.py.
    kind: str
    # What may be special tokens of the vocabulary, and must then be kept in the text.
    markers: tuple[str, ...]
    # One call, or several, and nothing else.
    calls: Write
    # Free text with calls in it.
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


def _mistral_names(tools: Sequence[Tool], only_one: bool) -> Format:
    return tags_with_separator(_mistral_name_tags(tools), "", only_one)


def _optional_mistral_names(tools: Sequence[Tool], only_one: bool) -> Format:
    return triggered_tags("[TOOL_CALLS]", _mistral_name_tags(tools), only_one)


def _mistral_name_tags(tools: Sequence[Tool]) -> list[Format]:
    return [tag(f"[TOOL_CALLS]{tool.name}[ARGS]", json_schema(tool.parameters), "") for tool in tools]


def _xml_tags(tools: Sequence[Tool]) -> list[Format]:
    """Where XML cannot follow a tool's schema, the tool is called as Hermes does."""
    calls = [xml_call(tool.name, tool.parameters) for tool in tools]
    return [call or json for call, json in zip(calls, _hermes_tags(tools), strict=True)]


def _xml(tools: Sequence[Tool], only_one: bool) -> Format:
    return tags_with_separator(_xml_tags(tools), "\n", only_one)


def _optional_xml(tools: Sequence[Tool], only_one: bool) -> Format:
    return triggered_tags("<tool_call>", _xml_tags(tools), only_one)


def _pythonic(tools: Sequence[Tool], only_one: bool) -> Format:
    """Where keywords cannot follow the schema of one tool, all are called as Llama 3 does."""
    calls = [call for tool in tools if (call := python_call(tool.name, tool.parameters)) is not None]
    if len(calls) < len(tools):
        return _llama(tools, only_one)
    return sequence(const("["), tags_with_separator(calls, ", ", only_one), const("]"))


def _optional_pythonic(tools: Sequence[Tool], only_one: bool) -> Format:
    """A text that begins with a bracket or a brace is a call."""
    return either(_pythonic(tools, only_one), {"type": "regex", "pattern": r"([^{\[](.|\n)*)?"})


def _harmony(tools: Sequence[Tool], only_one: bool) -> Format:
    """One call: behind it the model waits for what the function returns."""
    header = f"{CHANNEL}commentary to=functions.%s {CONSTRAIN}json{MESSAGE}"
    tags = [tag(header % tool.name, json_schema(tool.parameters), "") for tool in tools]
    return tags_with_separator(tags, "", only_one=True)


def _optional_harmony(tools: Sequence[Tool], only_one: bool) -> Format:
    return either(_harmony(tools, only_one), in_final_channel({"type": "any_text"}))


def in_final_channel(answer: Format) -> Format:
    """What the user is told, as harmony writes it."""
    return tag(f"{CHANNEL}final{MESSAGE}", answer, "")


def behind_analysis(answer: Format) -> Format:
    """A message of harmony, perhaps after a thought."""
    thought = tag(f"{CHANNEL}analysis{MESSAGE}", {"type": "any_text"}, f"<|end|>{START}assistant")
    return sequence(either(thought, const("")), answer)


def _tag(before: str, key: str, tool: Tool, after: str) -> Format:
    begin = f'{before}{{"name": {json.dumps(tool.name)}, "{key}": '
    return tag(begin, json_schema(tool.parameters), "}" + after)


HERMES = ToolFormat("hermes", ("<tool_call>", "</tool_call>"), _hermes, _optional_hermes)
LLAMA = ToolFormat("llama3_json", ("<|python_tag|>",), _llama, _optional_llama)
# The reader knows both forms: without its marker, a call's id would run into the function's name.
_MISTRAL_MARKERS = ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]")
MISTRAL = ToolFormat("mistral", _MISTRAL_MARKERS, _mistral, _optional_mistral)
# Since version 11 of its tokenizer; what reads one reads both.
MISTRAL_NAMES = ToolFormat("mistral", _MISTRAL_MARKERS, _mistral_names, _optional_mistral_names)
PYTHONIC = ToolFormat(
    "pythonic", ("<|python_start|>", "<|python_tag|>", "<|python_end|>"), _pythonic, _optional_pythonic
)
_XML_MARKERS = ("<tool_call>", "</tool_call>", "<function=", "</function>", "<parameter=", "</parameter>")
QWEN_CODER = ToolFormat("qwen3_coder", _XML_MARKERS, _xml, _optional_xml)
HARMONY = ToolFormat("harmony", HARMONY_MARKERS, _harmony, _optional_harmony)
# Names as vLLM's --tool-call-parser has them; Qwen 2.5 and 3 write as Hermes does.
TOOL_FORMATS = {
    "hermes": HERMES,
    "qwen": HERMES,
    "llama3_json": LLAMA,
    "llama4_json": LLAMA,
    "mistral": MISTRAL,
    "pythonic": PYTHONIC,
    "llama4_pythonic": PYTHONIC,
    "qwen3_coder": QWEN_CODER,
    "qwen3_xml": QWEN_CODER,
    "openai": HARMONY,
}
# The first that a template has decides: Qwen3-Coder's has Hermes' tags, and pythonic ones have Llama's, too.
_SIGNS = (
    ("<|channel|>analysis<|message|>", HARMONY),
    ("[ARGS]", MISTRAL_NAMES),
    ("[TOOL_CALLS]", MISTRAL),
    ("<function=", QWEN_CODER),
    ("<tool_call>", HERMES),
    ("(params_name1=", PYTHONIC),
    ("<|python_tag|>", LLAMA),
    ('"parameters": dictionary of argument name', LLAMA),
)


def detect(template: str) -> ToolFormat | None:
    """The form that a chat template shows calls in; None for one that we do not know."""
    return next((form for sign, form in _SIGNS if sign in template), None)
