"""What the routes about contexts read and answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from multiflora_platform.contexts.content import ContextContent, ContextDefinition
from multiflora_platform.prices import ContextMoney
from multiflora_platform.text.message_parts import Order
from multiflora_platform.web.json_bodies import Body, Patch
from multiflora_platform.web.problems import InvalidRequest

ContextStatus = Literal["computing", "warm", "partial", "cold"]
Texts = Annotated[str, Meta(min_length=1, pattern=r"^[^\x00]*$")]
Model = Annotated[str, Meta(min_length=1, max_length=200)]
Models = Annotated[list[Model], Meta(max_length=64)]
Objects = Annotated[list[dict[str, Any]], Meta(max_length=4096)]
Priority = Annotated[int, Meta(ge=-(2**31), lt=2**31)]
TimeToLive = int | str
_TTL = re.compile(r"([0-9]{1,9})([smhd]?)\Z")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = 366 * 86400


class ContextBody(Body, frozen=True):
    """Either prompt, a text, or messages (with documents and tools) that go through the chat template. order: "any"
    lets the server sort documents. adapters: as requests name models, base models among them; none: the default base
    model. ttl: seconds, or as "5m", "1h"; null: for ever. pin: held in the cache until then; otherwise computed, and
    computed again when it was evicted and the engine is idle. priority: smaller is computed first. tenant: whose it is,
    for admins."""

    messages: Objects | None = None
    prompt: Texts | None = None
    documents: Objects | None = None
    order: Order | None = None
    tools: Objects | None = None
    adapters: Models = msgspec.field(default_factory=list)
    ttl: TimeToLive | None = None
    pin: bool = True
    priority: Priority = 0
    tenant: Annotated[str, Meta(min_length=1, max_length=64)] | None = None

    @property
    def content(self) -> ContextContent:
        """Raises InvalidRequest."""
        given = (self.messages, self.documents, self.tools)
        messages, documents, tools = (part or None for part in given)
        content = ContextContent(
            messages=messages, prompt=self.prompt, documents=documents, tools=tools, order=self.order
        )
        return content.check().ordered()

    def definition(self) -> ContextDefinition:
        """Its tokens are not counted yet. Raises InvalidRequest."""
        adapters = tuple(dict.fromkeys(self.adapters))
        return ContextDefinition(
            self.content, adapters, seconds(self.ttl), self.pin, self.priority, tokens_of={}, tokens=0
        )


class ContextPatch(Patch, frozen=True):
    """A field that is absent stays; null clears it. What it changes of content, adapters or ttl begins its ttl anew."""

    messages: Objects | UnsetType | None = UNSET
    prompt: Texts | UnsetType | None = UNSET
    documents: Objects | UnsetType | None = UNSET
    order: Order | UnsetType | None = UNSET
    tools: Objects | UnsetType | None = UNSET
    adapters: Models | UnsetType = UNSET
    ttl: TimeToLive | UnsetType | None = UNSET
    pin: bool | UnsetType = UNSET
    priority: Priority | UnsetType = UNSET

    def onto(self, present: ContextDefinition) -> ContextBody:
        """All of the context as the patch leaves it."""
        fields = {name: getattr(present.content, name) for name in ContextContent.__struct_fields__}
        fields |= {name: getattr(present, name) for name in ("ttl", "pin", "priority")}
        return ContextBody(**{"adapters": list(present.adapters), **fields, **self.fields})

    @property
    def renews(self) -> bool:
        return not self.fields.keys() <= {"pin", "priority"}


class ContextAdapter(msgspec.Struct, frozen=True):
    """What is cached for one of a context's models; error: why it cannot be computed, for now. base_models: that its
    versions belong to, by name; empty where none is served."""

    status: ContextStatus
    cached_tokens: int
    base_models: list[str] = msgspec.field(default_factory=list)
    error: str | None = None


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """status: of all its models together. tokens: of several base models the most that one makes of it. cached_tokens:
    that each of its models has at least. held: all of it is, for each of them. hits: requests that named it. bytes: of
    the cached KV. found_tokens: of its tokens, those that these requests found; saved_seconds: of the device, that
    computing them would have taken, estimated. seconds_again: that it took to compute what had been lost of it.
    stored_token_hours: that its tokens were held. money: null where no prices are set."""

    name: str
    tenant: str | None
    status: ContextStatus
    tokens: int
    cached_tokens: int
    bytes: int
    held: bool
    hits: int
    found_tokens: int
    saved_seconds: float
    seconds_again: float
    stored_token_hours: float
    money: ContextMoney | None
    adapters: dict[str, ContextAdapter]
    ttl: int | None
    pin: bool
    priority: int
    expires_at: str | None
    created_by: str
    created_at: str
    updated_at: str
    etag: str


class ContextPage(msgspec.Struct, frozen=True):
    items: list[Context]
    next_page_token: str | None


def seconds(ttl: TimeToLive | None) -> int | None:
    """Raises InvalidRequest."""
    if ttl is None:
        return None
    found = _TTL.match(str(ttl))
    value = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 1 <= value <= _LONGEST:
        raise InvalidRequest('ttl must be seconds from 1 to a year, or as "5m", "1h", "7d".', pointer="/ttl")
    return value


def together(parts: Sequence[ContextStatus]) -> ContextStatus:
    """Of all its models: what they have in common, or partial."""
    if "computing" in parts:
        return "computing"
    return parts[0] if len(set(parts)) == 1 else "partial"
