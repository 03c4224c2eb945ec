"""Marks of a chat: of each time the last one, and of many times the last few."""

from __future__ import annotations

from typing import Any

import pytest

from multiflora_platform.gateway.prompting.breakpoints import chat_breakpoints, ttl_seconds
from multiflora_platform.gateway.schemas.requests import ChatRequest, PromptCacheOptions


def chat(ttls: list[str | None], options: PromptCacheOptions | None = None) -> ChatRequest:
    """Two messages with as many parts, each part with such a mark (None: with none)."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": "x"} for _ in ttls]
    for part, ttl in zip(parts, ttls, strict=True):
        if ttl is not None:
            part["prompt_cache_breakpoint"] = {"mode": "explicit", "ttl": ttl}
    messages = [{"role": "user", "content": parts}, {"role": "user", "content": parts}]
    return ChatRequest(model="base", messages=messages, prompt_cache_options=options)


def places(body: ChatRequest) -> list[tuple[int, int | None, int]]:
    """Of each mark its time, its message and its part; None and 0 of the whole prompt's."""
    found: list[tuple[int, int | None, int]] = []
    for mark in chat_breakpoints(body):
        if mark.beginning is None:
            found.append((mark.ttl, None, 0))
        else:
            *_, last = mark.beginning.messages
            found.append((mark.ttl, len(mark.beginning.messages) - 1, len(last["content"]) - 1))
    return found


def test_the_last_mark_of_each_time_in_the_order_of_the_prompt() -> None:
    assert places(chat(["5m", "1h", None, "5m"])) == [(3600, 1, 1), (300, 1, 3)]
    assert places(chat(["1m", None], PromptCacheOptions(ttl="2m"))) == [(60, 1, 0), (120, None, 0)]
    assert places(chat(["1m"], PromptCacheOptions(ttl="1m"))) == [(60, None, 0)]
    assert places(chat(["1m"], PromptCacheOptions(ttl="2m", mode="explicit"))) == [(60, 1, 0)]


def test_of_many_times_the_last_four_are_marked() -> None:
    assert places(chat([f"{n}s" for n in range(1, 501)])) == [(n, 1, n - 1) for n in range(497, 501)]


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [("5m", 300), ("1h", 3600), ("30s", 30), ("9999h", 86_400), ("0m", None), ("5", None), ("5d", None), (5, None)],
)
def test_times_of_marks(ttl: Any, seconds: int | None) -> None:
    assert ttl_seconds(ttl) == seconds
