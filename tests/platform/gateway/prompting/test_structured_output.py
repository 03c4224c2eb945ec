"""From a request's parameters to the grammar that the engine gets; bad ones are 400s, and cost the others nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.platform.gateway.house import House

from multiflora_engine.protocol.requests import EngineFailure

CHAT = {"model": "base", "messages": [{"role": "user", "content": "Hi"}]}
COMPLETION = {"model": "sql", "prompt": "Hi", "max_tokens": 20}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
ENDLESS = {"allOf": [{"type": "string", "pattern": f"^(.*a.{{{10 + i}}}b.*)+$"} for i in range(30)]}


def form(schema: Any, **fields: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **fields}}}


def grammar(house: House) -> dict[str, Any]:
    """What the engine got last."""
    text = house.engine.requests[-1].grammar
    assert text is not None
    (found,) = json.loads(text)["grammars"]
    return dict(found)


async def test_schemas_reach_the_engine_from_each_parameter(house: House) -> None:
    ways: list[dict[str, Any]] = [
        form(SCHEMA),
        {"structured_outputs": {"json": SCHEMA}},
        {"structured_outputs": {"json": json.dumps(SCHEMA)}},
        {"guided_json": SCHEMA},
        {"json_schema": SCHEMA, "grammar": ""},
        {"json_schema": json.dumps(SCHEMA)},
    ]
    for fields in ways:
        for path, body in (("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETION)):
            assert (await house.post(path, {**body, **fields})).status_code == 200
            assert grammar(house)["json_schema"]["properties"] == SCHEMA["properties"]


async def test_strict_schemas_hold_what_they_name_and_nothing_else(house: House) -> None:
    await house.post("/v1/chat/completions", {**CHAT, **form(SCHEMA, strict=True)})
    assert grammar(house)["json_schema"]["additionalProperties"] is False
    await house.post("/v1/chat/completions", {**CHAT, **form(SCHEMA)})
    assert "additionalProperties" not in grammar(house)["json_schema"]


async def test_the_other_kinds(house: House) -> None:
    await house.post("/v1/chat/completions", {**CHAT, "response_format": {"type": "json_object"}})
    assert grammar(house)["json_schema"]["type"] == "object"
    for fields, expected in (
        ({"guided_choice": ["yes", "no"]}, '"yes" | "no"'),
        ({"guided_regex": "[0-9]{3}"}, "[0-9]{3}"),
        ({"guided_grammar": 'root ::= "a"'}, 'start: "a"'),
        ({"structured_outputs": {"regex": "[0-9]{3}"}}, "[0-9]{3}"),
        ({"regex": "[0-9]{3}", "json_schema": {}}, "[0-9]{3}"),
        ({"ebnf": 'root ::= "a"'}, 'start: "a"'),
        ({"grammar": 'root ::= "a"'}, 'start: "a"'),
    ):
        await house.post("/v1/completions", {**COMPLETION, **fields})
        assert expected in grammar(house)["lark_grammar"]
    tags = {"type": "structural_tag", "format": {"type": "const_string", "value": "fixed"}}
    await house.post("/v1/chat/completions", {**CHAT, "response_format": tags})
    assert '"fixed"' in grammar(house)["lark_grammar"]
    await house.post("/v1/chat/completions", {**CHAT, "response_format": {"type": "text"}})
    assert house.engine.requests[-1].grammar is None


@pytest.mark.parametrize("kind", ["json_schema", "json_object"])
async def test_a_schema_that_stands_elsewhere_is_not_ignored(house: House, kind: str) -> None:
    form = {"type": kind, "json_schema": SCHEMA}
    response = await house.post("/v1/chat/completions", {**CHAT, "response_format": form})
    assert response.status_code == 400
    assert "json_schema.schema is missing" in response.json()["error"]["message"]


async def test_whitespace_options(house: House) -> None:
    for options, expected in (
        ({}, {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,40}"}),
        ({"disable_any_whitespace": True}, {"whitespace_flexible": False}),
        ({"whitespace_pattern": " ?"}, {"whitespace_pattern": " ?"}),
    ):
        await house.post("/v1/completions", {**COMPLETION, "structured_outputs": {"json": SCHEMA, **options}})
        assert grammar(house)["json_schema"]["x-guidance"] == expected
    await house.post("/v1/completions", {**COMPLETION, "guided_json": SCHEMA, "guided_whitespace_pattern": "x"})
    assert grammar(house)["json_schema"]["x-guidance"] == {"whitespace_pattern": "x"}


@pytest.mark.parametrize(
    ("fields", "param", "reason"),
    [
        (form({"if": {}}), "response_format", "Unimplemented"),
        (form({"type": "integer", "minimum": 5, "maximum": 4}), "response_format", "Unsatisfiable"),
        ({"guided_regex": "[a"}, "guided_regex", "unclosed"),
        ({"structured_outputs": {"grammar": "start: x"}}, "structured_outputs", "unknown name"),
        ({"guided_json": {"$ref": "https://example.org/schema"}}, "guided_json", "example.org"),
    ],
)
async def test_what_cannot_be_followed_is_a_400_that_says_why(
    house: House, fields: dict[str, Any], param: str, reason: str
) -> None:
    response = await house.post("/v1/chat/completions", {**CHAT, **fields, "stream": True})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "invalid_grammar", param)
    assert reason in error["message"]
    assert not house.engine.requests


async def test_pathological_schemas_are_400_and_the_loop_goes_on_meanwhile(house: House) -> None:
    """A real stream beside a real engine is in tests/e2e."""
    assert (await house.post("/v1/completions", {**COMPLETION, "guided_json": SCHEMA})).status_code == 200
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    async with asyncio.timeout(60):
        response = await house.post("/v1/chat/completions", {**CHAT, **form(ENDLESS)})
    ticking.cancel()
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_grammar")
    assert "more than 1 s" in response.json()["error"]["message"]
    assert ticks > 10, "a compiler took a second, and the loop was free"


async def test_a_grammar_that_fails_midway_fails_its_request_with_its_code(house: House) -> None:
    house.engine.failure = EngineFailure("invalid_grammar", "too many items")
    response = await house.post("/v1/chat/completions", {**CHAT, **form(SCHEMA)})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_grammar")
    house.engine.fail_after = 2
    events = await house.events("/v1/completions", {**COMPLETION, "guided_json": SCHEMA})
    assert events[-1]["error"]["code"] == "invalid_grammar"


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_object", "schema": {"properties": {"city": {"type": "string"}}, "required": ["city"]}},
        {"type": "json_schema", "schema": {"properties": {"city": {"type": "string"}}, "required": ["city"]}},
        {"type": "json_object", "value": {"properties": {"city": {"type": "string"}}, "required": ["city"]}},
        {"type": "json_object", "json_schema": {"schema": {"properties": {"city": {}}, "required": ["city"]}}},
    ],
)
async def test_a_schema_beside_the_type_is_followed(house: House, form: dict[str, Any]) -> None:
    chat = {"model": "base", "messages": [{"role": "user", "content": "x"}]}
    for path, asks in (
        ("/v1/chat/completions", {**chat, "response_format": form}),
        ("/v1/completions", {"model": "base", "prompt": "x", "response_format": form}),
        ("/v1/responses", {"model": "base", "input": "x", "text": {"format": form}}),
    ):
        response = await house.post(path, asks)
        assert response.status_code == 200, response.text
        assert "city" in (house.engine.requests[-1].grammar or "")
