"""Calls are found in whatever pieces the text comes, and what is no call stays text."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from multiflora_platform.messages.message import Call, Message, MessageFormat
from multiflora_platform.messages.pieces import CallArguments
from multiflora_platform.messages.tool_formats import MISTRAL_NAMES, TOOL_FORMATS, detect
from multiflora_platform.messages.tool_readers import make_reader

ARGUMENTS = '{"a": [1, "}{\\""], "b": {"c": null, "d": "é"}}'
HERMES = f'<tool_call>\n{{"name": "f", "arguments": {ARGUMENTS}}}\n</tool_call>'
SCHEMAS: dict[str, dict[str, Any]] = {
    "f": {
        "properties": {
            "s": {"type": "string"},
            "n": {"type": "integer"},
            "o": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "b": {"type": "object"},
        }
    },
    "g": {},
}


def xml(name: str, **parameters: str) -> str:
    written = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in parameters.items())
    return f"<tool_call>\n<function={name}>\n{written}</function>\n</tool_call>"


CASES: list[tuple[str, str, str | None, list[tuple[str, str]]]] = [
    ("hermes", HERMES, None, [("f", ARGUMENTS)]),
    ("hermes", f"Let me see.\n{HERMES}\n{HERMES}", "Let me see.", [("f", ARGUMENTS)] * 2),
    ("hermes", f"{HERMES}\nDone. ", "Done. ", [("f", ARGUMENTS)]),
    ("hermes", "no call \n", "no call \n", []),
    ("hermes", "a <tool_call b <", "a <tool_call b <", []),
    ("hermes", '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', None, [("f", '{"a": 1}')]),
    ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', None, [("f", '{"a": 1}')]),
    ("hermes", '<tool_call>{"name": "f"}</tool_call>', None, [("f", "{}")]),
    ("hermes", '<tool_call>{"name": "f", "arguments": {}}<tool_call>', None, [("f", "{}")]),
    ("hermes", '<tool_call>{"x": 1}</tool_call>', '<tool_call>{"x": 1}</tool_call>', []),
    ("hermes", '<tool_call>{"name": 3}</tool_call>', '<tool_call>{"name": 3}</tool_call>', []),
    ("hermes", "<\n<tool_call>{},", "<\n<tool_call>{},", []),
    ("hermes", "<tool_call>nonsense</tool_call>", "<tool_call>nonsense</tool_call>", []),
    ("hermes", '<tool_call>{"na', '<tool_call>{"na', []),
    ("hermes", '<tool_call>\n{"name": "f", "arguments": {"a": 1', None, [("f", '{"a": 1')]),
    ("openai", f"<|channel|>commentary to=functions.f <|constrain|>json<|message|>{ARGUMENTS}<|call|>", None,
     [("f", ARGUMENTS)]),
    ("qwen", HERMES, None, [("f", ARGUMENTS)]),
    ("llama3_json", f'{{"name": "f", "parameters": {ARGUMENTS}}}', None, [("f", ARGUMENTS)]),
    ("llama3_json", '{"type": "function", "name": "f", "parameters": {"a": 1}}', None, [("f", '{"a": 1}')]),
    ("llama3_json", '<|python_tag|>{"name": "f", "parameters": {}}; {"name": "g", "parameters": {"b": 2}}', None,
     [("f", "{}"), ("g", '{"b": 2}')]),
    ("llama3_json", '{"parameters": {"a": 1}, "name": "f"}', None, [("f", '{"a": 1}')]),
    ("llama3_json", '{"name": "Bob", "age": 3} is he', '{"name": "Bob", "age": 3} is he', []),
    ("llama3_json", 'see {"name": "f"}', 'see {"name": "f"}', []),
    ("llama3_json", '{"a": 1}', '{"a": 1}', []),
    ("llama3_json", '{"na', '{"na', []),
    ("llama3_json", "<|py", "<|py", []),
    ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]', None,
     [("f", '{"a": 1}'), ("g", "{}")]),
    ("mistral", f'Well. [TOOL_CALLS] [{{"name": "f", "arguments": {ARGUMENTS}}}]', "Well.", [("f", ARGUMENTS)]),
    ("mistral", f'[TOOL_CALLS]f[ARGS]{ARGUMENTS}[TOOL_CALLS]g{{"c": 2}}', None, [("f", ARGUMENTS), ("g", '{"c": 2}')]),
    ("mistral", "[TOOL_CALLS]f[CALL_ID]a1b2c3d4e[ARGS]{}", None, [("f", "{}")]),
    ("mistral", "nothing [TOOL", "nothing [TOOL", []),
    ("pythonic", "[f(a='it\\'s', b=[1, {'c': None}], s=\"x)],\"), g()]", None,
     [("f", '{"a": "it\'s", "b": [1, {"c": null}], "s": "x)],"}'), ("g", "{}")]),
    ("pythonic", " <|python_start|>[ f( a = True ,b=-1.5 ) ]<|python_end|>\n", None, [("f", '{"a": true, "b": -1.5}')]),
    ("pythonic", '[f(a=true, b=null, c="\\u00e9", d=NaN, e=what)]', None,
     [("f", '{"a": true, "b": null, "c": "\\u00e9", "d": "NaN", "e": "what"}')]),
    ("pythonic", '{"name": "f", "parameters": {"a": 1}}', None, [("f", '{"a": 1}')]),
    ("pythonic", "<|python_tag|>[f(a=1)]", None, [("f", '{"a": 1}')]),
    ("pythonic", "[f(a=1)] and more", "and more", [("f", '{"a": 1}')]),
    ("pythonic", "[1, 2] is a list", "[1, 2] is a list", []),
    ("pythonic", "[other(a=1)]", "[other(a=1)]", []),
    ("pythonic", "[fun", "[fun", []),
    ("pythonic", "[ ", "[ ", []),
    ("pythonic", "[]", "[]", []),
    ("pythonic", "no [f(a=1)]", "no [f(a=1)]", []),
    ("pythonic", "<|pyt", "<|pyt", []),
    ("pythonic", "[f(a=1, b='x", None, [("f", '{"a": 1')]),
    ("qwen3_coder", xml("f", a="\nif x < 1:\n  y = \"é\"\n", b="{\"c\": [1]}", s="3"), None,
     [("f", '{"a": "\\nif x < 1:\\n  y = \\"é\\"\\n", "b": {"c": [1]}, "s": "3"}')]),
    ("qwen3_coder", f"Well.\n{xml('f', n='3')}\n{xml('g')}\n", "Well.", [("f", '{"n": 3}'), ("g", "{}")]),
    ("qwen3_coder", xml("f", n="None", o="None", u="x"), None, [("f", '{"n": null, "o": null, "u": "x"}')]),
    ("qwen3_coder", xml("f", n="three", o="3", b="{'c': True}"), None,
     [("f", '{"n": "three", "o": "3", "b": {"c": true}}')]),
    ("qwen3_coder", xml("f", s="<b></p>").removeprefix("<tool_call>\n"), None, [("f", '{"s": "<b></p>"}')]),
    ("qwen3_coder", "<tool_call><function=f><parameter=s>x</parameter></function></tool_call>done", "done",
     [("f", '{"s": "x"}')]),
    ("qwen3_coder", HERMES, None, [("f", ARGUMENTS)]),
    ("qwen3_coder", "<tool_call>\n<function=f>\n<parameter=s>\nha", None, [("f", '{"s": "ha')]),
    ("qwen3_coder", "a < b <function", "a < b <function", []),
    ("qwen3_coder", "<function=\n", "<function=\n", []),
]  # fmt: skip


def form(kind: str, only_one: bool = False) -> MessageFormat:
    return MessageFormat(tools=lambda: make_reader(TOOL_FORMATS[kind], SCHEMAS, only_one))


def in_pieces(text: str, size: int, how: MessageFormat) -> Message:
    message, reader = Message(), how.reader()
    for start in range(0, len(text), size):
        for piece in reader.push(text[start : start + size]):
            message.add(piece)
    for piece in reader.flush():
        message.add(piece)
    assert reader.has_calls == bool(message.calls)
    return message


@pytest.mark.parametrize(("kind", "text", "content", "calls"), CASES)
def test_calls_and_content(kind: str, text: str, content: str | None, calls: list[tuple[str, str]]) -> None:
    expected = Message(None, content, [Call(name, arguments) for name, arguments in calls])
    assert form(kind).read(text) == expected
    for size in (1, 2, 3, 7, 50):
        assert in_pieces(text, size, form(kind)) == expected


def test_a_form_lists_all_markers_that_its_reader_knows() -> None:
    """The detokenizer skips every other special token."""
    marker = re.compile(r"<\|\w+\|>|</?tool_call>|<(?:function|parameter)=|</(?:function|parameter)>|\[[A-Z_]{4,}\]")
    for kind, form in {**TOOL_FORMATS, "mistral with names": MISTRAL_NAMES}.items():
        texts = [text for of, text, _, calls in CASES if calls and of in (kind, form.kind)]
        assert texts
        assert {found for text in texts for found in marker.findall(text)} <= set(form.markers), kind


@pytest.mark.parametrize("kind", ["hermes", "llama3_json", "mistral"])
def test_one_call_where_only_one_is_wanted(kind: str) -> None:
    text = {
        "hermes": f"{HERMES}\n{HERMES}",
        "llama3_json": '{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}',
        "mistral": '[TOOL_CALLS][{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]',
    }[kind]
    for size in (1, 100):
        assert [call.name for call in in_pieces(text, size, form(kind, only_one=True)).calls] == ["f"]


def test_the_newer_form_of_mistral_is_told_by_its_template() -> None:
    assert detect("{{ '[TOOL_CALLS]' + name + '[ARGS]' }}") is MISTRAL_NAMES


def test_strings_of_xml_go_out_as_they_come() -> None:
    reader = form("qwen3_coder").reader()
    pieces = reader.push("<tool_call><function=f><parameter=s>\nhello")
    assert "".join(piece.text for piece in pieces if isinstance(piece, CallArguments)) == '{"s": "hello'
    assert reader.push("<") == []
    assert reader.push("b>") == [CallArguments(0, "<b>")]


def test_arguments_go_out_as_they_come() -> None:
    reader = form("hermes").reader()
    assert reader.push('<tool_call>{"name": "f", "argu') != []
    (piece,) = reader.push('ments": {"a": "hel')
    assert piece.text == '{"a": "hel'
    json.loads(piece.text + 'lo"}')


@pytest.mark.parametrize(
    ("template", "kind"),
    [
        ("{{ '<tool_call>' }}", "hermes"),
        ("{{ '[TOOL_CALLS] [' }}", "mistral"),
        ("{{ '<|python_tag|>' }}", "llama3_json"),
        ("{{ '<tool_call><function=' }}", "qwen3_coder"),
        ("[func_name1(params_name1=params_value1)] <|python_tag|>", "pythonic"),
        ("{{ messages }}", None),
    ],
)
def test_templates_tell_the_form(template: str, kind: str | None) -> None:
    assert detect(template) is (None if kind is None else TOOL_FORMATS[kind])
