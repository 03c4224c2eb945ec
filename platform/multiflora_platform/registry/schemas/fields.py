"""What people may say about an adapter, and its limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from multiflora_platform.web.problems import InvalidRequest

MAX_TEXT = 16_384


MAX_TAGS = 64


MAX_WARMUP_PROMPTS = 16


@dataclass(frozen=True)
class AdapterFields:
    """What people say about an adapter; None leaves a field as it is, an empty one clears it."""

    description: str | None = None
    tags: Sequence[str] | None = None
    demo_prompt: str | None = None
    warmup_prompts: Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Raises InvalidRequest."""
        for name in ("description", "demo_prompt"):
            check_text(getattr(self, name) or "", MAX_TEXT, f"/{name}")
        if len(self.warmup_prompts or ()) > MAX_WARMUP_PROMPTS:
            raise InvalidRequest(f"At most {MAX_WARMUP_PROMPTS} prompts warm up.", pointer="/warmup_prompts")
        for index, prompt in enumerate(self.warmup_prompts or ()):
            if not prompt:
                raise InvalidRequest("A prompt has at least one character.", pointer=f"/warmup_prompts/{index}")
            check_text(prompt, MAX_TEXT, f"/warmup_prompts/{index}")
        if len(self.tags or ()) > MAX_TAGS:
            raise InvalidRequest(f"An adapter has at most {MAX_TAGS} tags.", pointer="/tags")
        for index, tag in enumerate(self.tags or ()):
            if not tag:
                raise InvalidRequest("A tag has at least one character.", pointer=f"/tags/{index}")
            check_text(tag, 64, f"/tags/{index}")


def check_text(text: str, limit: int, pointer: str) -> None:
    if len(text) > limit:
        raise InvalidRequest(f"The text is longer than {limit} characters.", pointer=pointer)
    if "\0" in text:  # PostgreSQL holds no such text
        raise InvalidRequest("The text has a NUL character.", pointer=pointer)
