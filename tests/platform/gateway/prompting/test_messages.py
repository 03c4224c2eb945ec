"""What a conversation becomes for chat templates: the calls of its history, whatever a model once wrote."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from tests.platform.gateway.house import House

from multiflora_platform.gateway.prompting.messages import template_messages
from multiflora_platform.text.chat_template import ChatTemplates

USER = {"role": "user", "content": "Weather?"}
# As many models' templates do: over the arguments' items.
TEMPLATE = (
    "{% for m in messages %}{{ m.content }}{% for call in m.tool_calls %}"
    "{% for name, value in call.function.arguments.items() %}{{ name }}={{ value }}{% endfor %}"
    "{% endfor %}{% endfor %}"
)
CUT = '{"city": "Os'  # max_tokens ended the call

HISTORIES = [
    ("", {}),
    (None, {}),
    ("null", {}),
    ("[]", {}),
    ("{}", {}),
    ('{"city": "Oslo"}', {"city": "Oslo"}),
    ({"city": "Oslo"}, {"city": "Oslo"}),
    (CUT, {"raw_arguments": CUT}),
    ("42", {"raw_arguments": "42"}),
    (42, {"raw_arguments": 42}),
    ('"Oslo"', {"raw_arguments": '"Oslo"'}),
    ("[1, 2]", {"raw_arguments": "[1, 2]"}),
    ('{"x": "\\ud800"}', {"raw_arguments": '{"x": "\\ud800"}'}),
    ("[" * 100_000, {"raw_arguments": "[" * 100_000}),
    ("9" * 5000, {"raw_arguments": "9" * 5000}),
]


def call(arguments: Any) -> dict[str, Any]:
    return {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}


@pytest.mark.parametrize(("arguments", "seen"), HISTORIES, ids=range(len(HISTORIES)))
def test_templates_always_get_an_object_as_arguments(arguments: Any, seen: dict[str, Any]) -> None:
    [_, message] = template_messages([USER, {"role": "assistant", "tool_calls": [call(arguments)]}], None, False)
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": seen}


@pytest.mark.parametrize("calls", [[], None])
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_an_empty_list_of_calls_is_no_call(role: str, calls: Any) -> None:
    assert template_messages([{"role": role, "content": "x", "tool_calls": calls}], None, False) == [
        {"role": role, "content": "x"}
    ]


@pytest.mark.parametrize("arguments", ["", "null", "[]", "42", CUT])
async def test_a_conversation_goes_on_after_a_call_that_was_cut(house: House, arguments: str) -> None:
    called = {"role": "assistant", "content": "", "tool_calls": [call(arguments)]}
    chat = {"model": "base", "messages": [USER, called], "max_tokens": 1}
    item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": arguments, "status": "incomplete"}
    tokenizer = copy.copy(house.services.model.tokenizer)
    tokenizer.templates = ChatTemplates({"default": TEMPLATE})
    house.services.groups.default.model = replace(house.services.model, tokenizer=tokenizer)
    response = {"model": "base", "input": [item, {"role": "user", "content": "x"}]}
    for path, body in (("/v1/chat/completions", chat), ("/tokenize", chat), ("/v1/responses", response)):
        answer = await house.post(path, body)
        assert answer.status_code == 200, (path, answer.text)


DOCUMENTS = [{"type": "document", "text": text} for text in ("Snow falls.", "The sun shines.", "It rains.")]


def asked(documents: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    parts = [{"type": "text", "text": "Read:"}, *documents, {"type": "text", "text": "What falls?"}]
    return {"model": "base", "messages": [{"role": "user", "content": parts}], "max_tokens": 1, **fields}


async def sent(house: House, body: dict[str, Any]) -> list[int]:
    """The prompt that reached the engine, which /tokenize tells, too."""
    answer = await house.post("/v1/chat/completions", body)
    assert answer.status_code == 200, answer.text
    ids = house.engine.requests[-1].prompt_token_ids
    assert (await house.post("/tokenize", body)).json()["tokens"] == ids
    return ids


async def test_documents_in_any_order_make_one_prompt(house: House) -> None:
    there, back = DOCUMENTS, DOCUMENTS[::-1]
    assert await sent(house, asked(there, order="any")) == await sent(house, asked(back, order="any"))
    for order in ({}, {"order": "given"}, {"order": None}):
        assert await sent(house, asked(there, **order)) != await sent(house, asked(back, **order))


async def test_so_do_documents_beside_the_messages(house: House) -> None:
    tokenizer = copy.copy(house.services.model.tokenizer)
    template = "{% for d in documents or [] %}{{ d.text }};{% endfor %}" + TEMPLATE
    tokenizer.templates = ChatTemplates({"default": template})
    default = house.services.groups.default
    default.model = replace(default.model, tokenizer=tokenizer)
    chat = {"model": "base", "messages": [USER], "max_tokens": 1}
    there, back = (chat | {"documents": documents} for documents in (DOCUMENTS, DOCUMENTS[::-1]))
    assert await sent(house, there | {"order": "any"}) == await sent(house, back | {"order": "any"})
    assert await sent(house, there) != await sent(house, back)


@pytest.mark.parametrize("order", ["all", 3, ["any"], True])
async def test_another_order_is_refused_by_name(house: House, order: Any) -> None:
    answer = await house.post("/v1/chat/completions", asked(DOCUMENTS, order=order))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "order"


@pytest.mark.parametrize("part", [{"type": "document"}, {"type": "document", "text": 3}])
async def test_a_document_without_a_text_is_refused_by_its_place(house: House, part: dict[str, Any]) -> None:
    answer = await house.post("/v1/chat/completions", asked([*DOCUMENTS, part]))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages[0].content[4].text"
