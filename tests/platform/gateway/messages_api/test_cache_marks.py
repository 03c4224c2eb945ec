"""Marks of Anthropic's blocks: what stands before each, and what many of them cost."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from multiflora_platform.gateway.messages_api import cache_marks
from multiflora_platform.gateway.messages_api.cache_marks import message_marks
from multiflora_platform.gateway.messages_api.to_chat import chat_request
from multiflora_platform.gateway.schemas.messages_requests import CountTokensRequest


def marked(words: str, ttl: str = "5m") -> dict[str, Any]:
    return {"type": "text", "text": words, "cache_control": {"type": "ephemeral", "ttl": ttl}}


def test_what_stands_before_each_mark() -> None:
    tool = {"name": "look", "input_schema": {"type": "object"}}
    body = CountTokensRequest(
        model="base",
        tools=[{**tool, "cache_control": {"type": "ephemeral", "ttl": "1m"}}, tool],
        system=[marked("One.", "2m"), {"type": "text", "text": "Two."}],
        messages=[{"role": "user", "content": [marked("Hi", "3m"), {"type": "text", "text": "there"}]}],
        cache_control={"type": "ephemeral", "ttl": "4m"},
    )
    chat = chat_request(body)
    context = [{"role": "system", "content": "The context's."}]
    tools, system, block, whole = message_marks(body, replace(chat, messages=context + chat.messages), len(context))
    assert [mark.ttl for mark in (tools, system, block, whole)] == [60, 120, 180, 240]
    assert whole.beginning is None
    assert tools.beginning is not None
    assert system.beginning is not None
    assert block.beginning is not None
    assert len(tools.beginning.tools or ()) == 1
    assert system.beginning.messages == [*context, {"role": "system", "content": "One."}]
    assert block.beginning.messages == [*context, chat.messages[0], {"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("ttls", [["5m"] * 500, ["5m", "1h"] * 250, [f"{n}s" for n in range(1, 501)]])
def test_each_of_many_marks_costs_no_reading_of_the_request(ttls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    readings = []
    read = cache_marks.chat_messages

    def counted(*parts: Any) -> list[dict[str, Any]]:
        readings.append(parts)
        return read(*parts)

    body = CountTokensRequest(
        model="base", messages=[{"role": "user", "content": [marked(f"{n}", ttl) for n, ttl in enumerate(ttls)]}]
    )
    chat = chat_request(body)
    monkeypatch.setattr(cache_marks, "chat_messages", counted)
    marks = message_marks(body, chat, 0)
    assert len(marks) == len(readings) == min(4, len(set(ttls)))
    assert marks[-1].beginning is not None
    assert len(marks[-1].beginning.messages[-1]["content"]) == 500
