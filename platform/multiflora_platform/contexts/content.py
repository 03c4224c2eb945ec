"""What a context holds: the beginning of a prompt, and for which models. Imports no server, because clients do so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import msgspec

from multiflora_platform.text.message_parts import Order, asks_for_reuse, by_digest, parts_of, with_sorted_parts
from multiflora_platform.web.problems import InvalidRequest


class ContextContent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a prompt begins with: a text, or the beginning of a conversation with its documents and tools. order: "any"
    where they have been sorted."""

    messages: list[dict[str, Any]] | None = None
    prompt: str | None = None
    documents: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    order: Order | None = None

    @property
    def is_chat(self) -> bool:
        return self.prompt is None

    def check(self) -> ContextContent:
        """Raises InvalidRequest."""
        chat = (self.messages, self.documents, self.tools)
        if self.prompt is not None and any(chat):
            raise InvalidRequest("A prompt is text as it is; messages, documents and tools go without it.", pointer="")
        if self.prompt is not None and self.order == "any":
            raise InvalidRequest("A prompt is text as it is: it has no documents to order.", pointer="/order")
        if any(map(asks_for_reuse, chain(parts_of(self.messages or ()), self.documents or ()))):
            reason = "A context is computed as a whole and reused exactly; reuse is for documents of requests."
            raise InvalidRequest(reason, pointer="/messages" if self.messages else "/documents")
        if not self.prompt and not any(chat):
            raise InvalidRequest(
                "The context is empty: send prompt, a text, or messages, documents or tools.", pointer=""
            )
        return self

    def ordered(self) -> ContextContent:
        """With its documents as they are put into prompts."""
        if self.order != "any":
            return self
        messages = None if self.messages is None else [with_sorted_parts(message) for message in self.messages]
        documents = None if self.documents is None else by_digest(self.documents)
        return msgspec.structs.replace(self, messages=messages, documents=documents)


@dataclass(frozen=True)
class ContextDefinition:
    """What a client sets; the route counts its tokens."""

    content: ContextContent
    adapters: tuple[str, ...]
    """As requests name models; none: the default base model."""
    ttl: int | None
    """Seconds; None: for ever."""
    pin: bool
    priority: int
    tokens_of: Mapping[str, int]
    """By the digest of each of its base models, whose tokenizers and templates differ."""
    tokens: int
    """The most of these."""

    @cached_property
    def size(self) -> int:
        """Of the content in bytes, as JSON. Each request that names the context asks for it."""
        return len(msgspec.json.encode(self.content))

    def is_computed_as(self, other: ContextDefinition) -> bool:
        """Nothing has to be computed for this one that was not for the other."""
        base = ("",)
        return self.content == other.content and {*(self.adapters or base)} <= {*(other.adapters or base)}

    def tokens_on(self, base_digest: str) -> int:
        """Where they were not counted for this base model, those of another."""
        return self.tokens_of.get(base_digest, self.tokens)
