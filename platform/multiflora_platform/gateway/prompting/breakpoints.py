"""Where a request marks that the beginning of its prompt is to be held, and for how long: OpenAI's parts and options.

A mark is the conversation up to it; how many tokens that is, rendering tells.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from msgspec.structs import replace

from multiflora_platform.gateway.prompting.chat import begun_ids
from multiflora_platform.gateway.schemas.requests import ChatRequest
from multiflora_platform.groups import ServedModel
from multiflora_platform.text.common_beginning import num_alike
from multiflora_platform.web.openai_errors import ApiError

_TTL = re.compile(r"([1-9][0-9]{0,3})([smh])\Z")
_UNITS = {"s": 1, "m": 60, "h": 3600}
_LONGEST = 86_400
_DEFAULT = "30m"
_NEXT = {"role": "user", "content": "a"}
# Of one request, as Anthropic's API takes them: each is rendered and tokenised.
_MOST_MARKS = 4


@dataclass
class Breakpoint:
    """A mark of one prompt."""

    ttl: int
    """Seconds."""
    beginning: ChatRequest | None
    """Whose prompt ends there; None: the whole prompt is held."""
    _tokens: int | None = field(default=None, init=False)
    """What `held_tokens` counted."""
    _counting: asyncio.Lock = field(default_factory=asyncio.Lock, init=False, repr=False)

    async def held_tokens(self, ids: list[int], model: ServedModel, limit: int) -> int:
        """Of the prompt, which has these tokens, those before the mark; 0 where the template makes no prompt of that
        beginning. They are counted once, whoever asks first. limit: tokens of prompt and answer."""
        async with self._counting:
            if self._tokens is None:
                self._tokens = len(ids) if self.beginning is None else await _begun(self.beginning, ids, model, limit)
        return self._tokens


class Marks:
    """The last mark of each ttl, for it holds what those before it do. Of more ttls than a request may have, the last
    ones in the prompt."""

    def __init__(self) -> None:
        self._noted: dict[int, Callable[[], ChatRequest | None]] = {}

    def note(self, ttl: int | None, beginning: Callable[[], ChatRequest | None]) -> None:
        """In the order of the prompt. ttl: None is no mark. beginning: makes what stands before the mark; only the few
        that remain are made, for each one reads the request anew."""
        if ttl is not None:
            self._noted.pop(ttl, None)
            self._noted[ttl] = beginning

    def breakpoints(self) -> list[Breakpoint]:
        return [Breakpoint(ttl, beginning()) for ttl, beginning in [*self._noted.items()][-_MOST_MARKS:]]


def ttl_seconds(ttl: Any) -> int | None:
    """Of "5m" and the like, a day at most; None for what is no time: marks are hints, and none is an error."""
    found = _TTL.match(ttl) if isinstance(ttl, str) else None
    return None if found is None else min(int(found[1]) * _UNITS[found[2]], _LONGEST)


def chat_breakpoints(body: ChatRequest) -> list[Breakpoint]:
    """Of parts with `prompt_cache_breakpoint`, and of the prompt itself where `prompt_cache_options` has a ttl and not
    the mode `explicit`."""
    options = body.prompt_cache_options
    default = ttl_seconds((options and options.ttl) or _DEFAULT)
    marks = Marks()
    for index, message in enumerate(body.messages):
        content = message.get("content")
        for place, part in enumerate(content if isinstance(content, list) else ()):
            mark = part.get("prompt_cache_breakpoint") if isinstance(part, dict) else None
            if isinstance(mark, dict):
                marks.note(ttl_seconds(mark.get("ttl")) or default, partial(_until, body, index, place))
    if options is not None and options.ttl and options.mode != "explicit":
        marks.note(default, lambda: None)
    return marks.breakpoints()


def _until(body: ChatRequest, index: int, place: int) -> ChatRequest:
    """What goes until this part of this message."""
    message = body.messages[index]
    cut = {**message, "content": message["content"][: place + 1]}
    return replace(body, messages=[*body.messages[:index], cut])


async def _begun(beginning: ChatRequest, ids: list[int], model: ServedModel, limit: int) -> int:
    for messages in ([*beginning.messages, _NEXT], beginning.messages):
        try:
            found = await begun_ids(replace(beginning, messages=messages), model, limit)
        except ApiError:
            continue  # roles that do not alternate, a call without its result
        return num_alike(found, ids)
    return 0
