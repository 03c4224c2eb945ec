"""Each format allows its texts and no others, with special tokens as tokens; what cannot be understood says why."""

from __future__ import annotations

from typing import Any

import pytest
from tests.platform.structured.conftest import DEMO_BASE, EOS, VOCAB

from multiflora_engine.core.grammar_source import GrammarError
from multiflora_engine.protocol.sampling_params import StructuredOutputsParams
from multiflora_engine.sampling.grammars import GrammarVocabulary
from multiflora_platform.structured import formats
from multiflora_platform.structured.formats import (
    FormatError,
    Structure,
    Whitespace,
    close_objects,
    integral_counts,
    structure_of,
)
from multiflora_platform.structured.lark import grammar_of
from multiflora_platform.structured.worker import compile_structure
from multiflora_platform.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.load(DEMO_BASE)
SPECIAL = TOKENIZER.special_ids_by_text(VOCAB)
VOCABULARY = GrammarVocabulary(TOKENIZER.definition, VOCAB, [EOS])
NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
NUMBER_TAG = formats.tag("<", formats.json_schema(NUMBER), ">")
ANY = {"type": "any_text"}


def reads(structure: Structure | dict[str, Any], text: str) -> str:
    """ "all": a whole text; "begin": it may go on to one; "no". Special tokens in the text are tokens."""
    if isinstance(structure, dict):
        structure = Structure(structure)
    matcher = VOCABULARY.matcher(grammar_of(structure, SPECIAL))
    ids = TOKENIZER.encode(text, False)
    if matcher.try_consume_tokens(ids) != len(ids):
        return "no"
    return "all" if matcher.is_accepting() else "begin"


def params(**fields: Any) -> Structure:
    return structure_of(StructuredOutputsParams(**fields))


def test_json_schemas_and_their_whitespace() -> None:
    for text in ('{"n": 1}', '{\n  "n":1\n}'):
        assert reads(params(json=NUMBER), text) == "all"
    assert reads(params(json=NUMBER), '{"m": 1}') == "no"
    assert reads(params(json=NUMBER), "{" + " " * 60) == "no"
    assert reads(params(json=NUMBER, disable_any_whitespace=True), '{"n": 1}') == "no"
    assert reads(params(json=NUMBER, disable_any_whitespace=True), '{"n":1}') == "all"
    assert reads(params(json=NUMBER, whitespace_pattern=" ?"), '{ "n": 1}') == "all"
    assert reads(params(json=NUMBER, whitespace_pattern=" ?"), '{\n"n": 1}') == "no"
    assert reads(params(json='{"type": "boolean"}'), "true") == "all"
    assert reads(params(json_object=True), '{"a": [1, {"b": null}]}') == "all"
    assert reads(params(json_object=True), "[1]") == "no"


def test_choices_expressions_and_grammars() -> None:
    assert reads(params(choice=["yes", "no"]), "no") == "all"
    assert reads(params(choice=["yes", 'say "no"\n']), 'say "no"\n') == "all"
    assert reads(params(choice=["yes", "no"]), "maybe") == "no"
    assert reads(params(regex=r"^[a-z]+/\d{2}$"), "ab/12") == "all"
    assert reads(params(regex=r"[a-z]+"), "ab/") == "no"
    assert reads(params(grammar='start: "a" /[0-9]+/'), "a12") == "all"
    assert reads(params(grammar='\n    ?start: word\n\n    ?word: "a" /[0-9]+/\n'), "a12") == "all"
    assert reads(params(grammar='root ::= "a" [0-9]+'), "a12") == "all"
    assert reads(params(grammar='root ::= "a" [0-9]+'), "b") == "no"


def test_texts_between_tags() -> None:
    legacy = {"structures": [{"begin": "<f=a>", "schema": NUMBER, "end": "</f>"}], "triggers": ["<f="]}
    structure = params(structural_tag=legacy)
    for text in ("no call", 'x <f=a>{"n": 1}</f> y <f=a>{"n":2}</f>'):
        assert reads(structure, text) == "all"
    for text in ("x <f=b>", 'x <f=a>{"m"'):
        assert reads(structure, text) == "no"
    assert reads(structure, 'x <f=a>{"n": 1}') == "begin"


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        (formats.sequence(formats.const("a"), formats.const("b")), ["ab"], ["a", "b", "ba"]),
        (formats.tag("[", ANY, "]"), ["[]", "[hello]"], ["hello]", "[a]b"]),
        (formats.tag("[", ANY, "<|user|>"), ["[hello<|user|>"], ["[hello<|user|>x"]),
        ({"type": "tag", "begin": "", "content": formats.const("x"), "end": ["!", "?"]}, ["x!", "x?"], ["x", "x."]),
        ({"type": "tag", "begin": "", "content": ANY, "end": ["!", "<|user|>"]}, ["x!", "x<|user|>"], ["x"]),
        (formats.tags_with_separator([NUMBER_TAG], ";", False), ['<{"n":1}>', '<{"n":1}>;<{"n":2}>'], ["", "x"]),
        (formats.tags_with_separator([formats.tag("a", formats.const("b"), "c")], ";", True), ["abc"], ["abc;abc"]),
        ({"type": "tags_with_separator", "tags": [formats.tag("a", formats.const("b"), "c")], "separator": "-"},
         ["", "abc", "abc-abc"], ["abcabc"]),
        (formats.triggered_tags("<|user|>", [formats.tag("<|user|>[", formats.const("x"), "]")], False),
         ["hi", "hi <|user|>[x] and <|user|>[x]"], ["<|user|>x"]),
        (formats.triggered_tags("#", [formats.tag("#a", formats.const("x"), "!")], True),
         ["hi", "hi #ax!"], ["hi #ax! more", "#b"]),
        ({"type": "triggered_tags", "triggers": ["#"], "at_least_one": True,
          "tags": [formats.tag("#a", formats.const("x"), "!")]}, ["hi #ax! more"], ["hi"]),
    ],
)  # fmt: skip
def test_formats(form: dict[str, Any], good: list[str], bad: list[str]) -> None:
    assert [reads(form, text) for text in good] == ["all"] * len(good)
    assert all(reads(form, text) != "all" for text in bad)


def test_a_special_token_is_never_spelled_out() -> None:
    matcher = VOCABULARY.matcher(grammar_of(Structure(formats.const("<|user|>!")), SPECIAL))
    spelled = [token for letter in "<|user|>" for token in TOKENIZER.encode(letter, False)]
    assert matcher.try_consume_tokens(spelled) == 0
    assert matcher.try_consume_tokens(TOKENIZER.encode("<|user|>!", False)) == 2


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "exactly one"),
        ({"regex": "a", "choice": ["b"]}, "regex and choice"),
        ({"json": "{"}, "not valid JSON"),
        ({"choice": []}, "at least one"),
        ({"structural_tag": {}}, "format, or structures"),
        ({"structural_tag": {"structures": [3]}}, "begin, schema and end"),
        ({"structural_tag": "["}, "not valid JSON"),
    ],
)
def test_parameters_that_say_nothing(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        params(**fields)


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({"type": "sing"}, "must be one of"),
        ({}, "must be one of"),
        ({"type": "or", "elements": [3]}, "must be one of"),
        ({"type": "or", "elements": []}, "at least one format"),
        ({"type": "regex"}, "pattern must be a string"),
        ({"type": "regex", "pattern": "[a"}, "unclosed character class"),
        ({"type": "json_schema", "json_schema": 3}, "must be an object"),
        ({"type": "json_schema", "json_schema": {"type": "strange"}}, "strange"),
        ({"type": "json_schema", "json_schema": {"if": {}}}, "Unimplemented keys"),
        ({"type": "json_schema", "json_schema": {"enum": []}}, "Unsatisfiable"),
        ({"type": "json_schema", "json_schema": {"$ref": "https://example.org/x"}}, ""),
        ({"type": "grammar", "grammar": "root ::= ("}, "Expected"),
        ({"type": "grammar", "grammar": "start: nothing"}, "nothing"),
        ({"type": "tag", "begin": 1, "content": ANY}, "begin must be a string"),
        ({"type": "tag", "begin": "a", "content": ANY, "end": 3}, "end must be a string"),
        ({"type": "tags_with_separator", "tags": [], "separator": ""}, "at least one tag"),
        ({"type": "tags_with_separator", "tags": [3], "separator": ""}, "must be an object"),
        ({"type": "triggered_tags", "tags": [formats.tag("a", ANY, "b")], "triggers": []}, "non-empty strings"),
        ({"type": "triggered_tags", "tags": [formats.tag("a", ANY, "b")], "triggers": ["x"]}, "none of the triggers"),
    ],
)
def test_formats_that_cannot_be_followed(form: dict[str, Any], reason: str) -> None:
    compiled = compile_structure(Structure(form), VOCABULARY, SPECIAL)
    assert compiled.grammar is None
    assert compiled.error is not None
    assert reason in compiled.error
    assert len(compiled.error) < 600


def test_a_nest_of_formats_beyond_all_measure_is_refused() -> None:
    form = formats.const("a")
    for _ in range(5000):
        form = {"type": "sequence", "elements": [form]}
    assert compile_structure(Structure(form), VOCABULARY, SPECIAL).error == "it is nested too deeply"


def test_a_count_may_be_written_as_a_float() -> None:
    word = {"type": "string", "minLength": 2.0, "maxLength": 3.0}
    several = {"type": "array", "items": word, "minItems": 1.0, "maxItems": 2.0}
    assert reads(params(json=several), '["ab","abc"]') == "all"
    for text in ('["a"]', '["abcd"]', "[]", '["ab","ab","ab"]'):
        assert reads(params(json=several), text) == "no"
    with pytest.raises(GrammarError, match="maxLength"):
        reads(params(json={"type": "string", "maxLength": 2.5}), '"ab"')
    kept = {"properties": {"const": {"maxItems": 1}}, "const": {"maxItems": 1.0}, "default": {"maxItems": 1.0}}
    assert integral_counts({**kept, "properties": {"const": {"maxItems": 1.0}}}) == kept
    assert type(integral_counts(kept)["const"]["maxItems"]) is float


def test_strict_schemas_are_closed_where_they_leave_it_open() -> None:
    open_object = {"type": "object", "properties": {"properties": {"type": "object", "properties": {"a": {}}}}}
    closed = close_objects(open_object)
    assert closed["additionalProperties"] is False
    assert set(closed["properties"]) == {"properties"}
    assert closed["properties"]["properties"]["additionalProperties"] is False
    assert close_objects({"properties": {}, "additionalProperties": True})["additionalProperties"] is True
    in_parts = {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}
    assert close_objects(in_parts) == in_parts
    assert close_objects({"const": {"properties": {}}}) == {"const": {"properties": {}}}
    assert close_objects({"anyOf": [{"properties": {}}]})["anyOf"][0]["additionalProperties"] is False


def test_whitespace_is_part_of_a_structures_identity() -> None:
    assert Structure(ANY, Whitespace(none=True)) != Structure(ANY)
