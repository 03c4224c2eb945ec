"""Where a request marks that the beginning of its prompt is to be held, and for how long: OpenAI's parts and options.

A mark is the conversation up to it; how many tokens that is, rendering tells.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from msgspec.structs import replace

from multiflora_platform.gateway.prompting.messages import chat_prompt
from multiflora_platform.gateway.prompting.tokenize import PromptRoom
from multiflora_platform.gateway.prompting.tool_choice import offered_tools
from multiflora_platform.gateway.schemas.requests import ChatRequest
from multiflora_platform.services import ServedModel
from multiflora_platform.web.openai_errors import ApiError

_TTL = re.compile(r"([1-9][0-9]{0,3})([smh])\Z")
_UNITS = {"s": 1, "m": 60, "h": 3600}
_LONGEST = 86_400
_DEFAULT = "30m"
_NEXT = {"role": "user", "content": "a"}


@dataclass(frozen=True)
class Breakpoint:
    ttl: int
    """Seconds."""
    beginning: ChatRequest | None
    """Whose prompt ends there; None: the whole prompt is held."""


def ttl_seconds(ttl: Any) -> int | None:
    """Of "5m" and the like, a day at most; None for what is no time: marks are hints, and none is an error."""
    found = _TTL.match(ttl) if isinstance(ttl, str) else None
    return None if found is None else min(int(found[1]) * _UNITS[found[2]], _LONGEST)


def chat_breakpoints(body: ChatRequest) -> list[Breakpoint]:
    """Of parts with `prompt_cache_breakpoint`, and of the prompt itself where `prompt_cache_options` has a ttl and not
    the mode `explicit`."""
    options = body.prompt_cache_options
    default = ttl_seconds((options and options.ttl) or _DEFAULT)
    marks = []
    for index, message in enumerate(body.messages):
        content = message.get("content")
        parts: list[Any] = content if isinstance(content, list) else []
        for place, part in enumerate(parts):
            mark = part.get("prompt_cache_breakpoint") if isinstance(part, dict) else None
            if isinstance(mark, dict) and (ttl := ttl_seconds(mark.get("ttl")) or default):
                cut = {**message, "content": parts[: place + 1]}
                marks.append(Breakpoint(ttl, replace(body, messages=[*body.messages[:index], cut])))
    if options is not None and options.ttl and options.mode != "explicit" and default:
        marks.append(Breakpoint(default, None))
    return last_of_each_ttl(marks)


def last_of_each_ttl(marks: Sequence[Breakpoint]) -> list[Breakpoint]:
    """Of marks in the order of the prompt: the later one holds what the earlier one does."""
    return list({mark.ttl: mark for mark in marks}.values())


async def held_tokens(mark: Breakpoint, ids: Sequence[int], model: ServedModel, limit: int) -> int:
    """Of the prompt with these tokens, those before the mark; 0 where the template makes no prompt of that beginning.
    limit: tokens of prompt and answer."""
    if mark.beginning is None:
        return len(ids)
    beginning = mark.beginning
    for messages in ([*beginning.messages, _NEXT], beginning.messages):
        chat = replace(
            beginning,
            messages=messages,
            tools=offered_tools(beginning.tools),
            add_generation_prompt=False,
            continue_final_message=False,
        )
        try:
            found = await chat_prompt(chat, model.tokenizer, model.vocab_size, PromptRoom(limit, 1))
        except ApiError:
            continue  # roles that do not alternate, a call without its result
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(found, ids, strict=False)))
    return 0
