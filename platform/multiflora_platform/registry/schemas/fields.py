"""What people may say about an adapter, and its limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from multiflora_platform.web.json_bodies import Body
from multiflora_platform.web.problems import InvalidRequest

MAX_TEXT = 16_384


MAX_TAGS = 64


MAX_WARMUP_PROMPTS = 16


class WarmupPrompt(Body, frozen=True, omit_defaults=True):
    """Either prompt, a text, or messages, which go through the chat template with tools. tenant: whose requests find
    it; None: those of the adapter's owner."""

    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    tenant: str | None = None


Warmup = str | WarmupPrompt


@dataclass(frozen=True)
class AdapterFields:
    """What people say about an adapter; None leaves a field as it is, an empty one clears it."""

    description: str | None = None
    tags: Sequence[str] | None = None
    demo_prompt: str | None = None
    warmup_prompts: Sequence[Warmup] | None = None

    def __post_init__(self) -> None:
        """Raises InvalidRequest."""
        for name in ("description", "demo_prompt"):
            check_text(getattr(self, name) or "", MAX_TEXT, f"/{name}")
        if len(self.warmup_prompts or ()) > MAX_WARMUP_PROMPTS:
            raise InvalidRequest(f"At most {MAX_WARMUP_PROMPTS} prompts warm up.", pointer="/warmup_prompts")
        for index, prompt in enumerate(self.warmup_prompts or ()):
            _check_warmup(prompt, f"/warmup_prompts/{index}")
        if len(self.tags or ()) > MAX_TAGS:
            raise InvalidRequest(f"An adapter has at most {MAX_TAGS} tags.", pointer="/tags")
        for index, tag in enumerate(self.tags or ()):
            if not tag:
                raise InvalidRequest("A tag has at least one character.", pointer=f"/tags/{index}")
            check_text(tag, 64, f"/tags/{index}")


def _check_warmup(prompt: Warmup, pointer: str) -> None:
    if isinstance(prompt, WarmupPrompt) and prompt.messages and prompt.prompt is None:
        check_text(msgspec.json.encode(prompt).decode().replace("\\u0000", "\0"), MAX_TEXT, pointer)
        return
    text = prompt if isinstance(prompt, str) else prompt.prompt
    if not text or (isinstance(prompt, WarmupPrompt) and (prompt.messages or prompt.tools)):
        raise InvalidRequest(
            "Send a text of at least one character, or messages; tools go with these.", pointer=pointer
        )
    check_text(text, MAX_TEXT, pointer)


def check_text(text: str, limit: int, pointer: str) -> None:
    if len(text) > limit:
        raise InvalidRequest(f"The text is longer than {limit} characters.", pointer=pointer)
    if "\0" in text:  # PostgreSQL holds no such text
        raise InvalidRequest("The text has a NUL character.", pointer=pointer)
