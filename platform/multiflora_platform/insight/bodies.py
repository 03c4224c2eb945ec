"""What insight's routes are asked."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, field

from multiflora_platform.observability.profiles import ProfiledProcess, ProfileKind
from multiflora_platform.web.json_bodies import Body

Ranks = Annotated[list[Annotated[int, Meta(ge=1, le=1024)]], Meta(max_length=4096)]


class WarmPrompt(Body, frozen=True):
    """model: as in a request. Either prompt, a text, or messages, which go through the chat template with tools.
    adapters: further models that it is computed for. tenant: whose requests find its whole blocks; None: admins'."""

    model: Annotated[str, Meta(min_length=1, max_length=200)]
    prompt: Annotated[str, Meta(min_length=1)] | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    adapters: Annotated[list[Annotated[str, Meta(min_length=1, max_length=200)]], Meta(max_length=64)] = field(
        default_factory=list
    )
    tenant: Annotated[str, Meta(min_length=1, max_length=64)] | None = None


class CacheQuestion(Body, frozen=True):
    """model, cache_salt: as in a request. Either prompt, a text or token ids, or messages, which go through the chat
    template with tools. compare: an earlier request's id, or its answer's; by default, the one that shares most."""

    model: Annotated[str, Meta(min_length=1, max_length=200)]
    prompt: Annotated[str, Meta(min_length=1)] | Annotated[list[int], Meta(min_length=1)] | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    cache_salt: str | None = None
    compare: Annotated[str, Meta(min_length=1, max_length=200)] | None = None


class AuditQuestion(Body, frozen=True):
    """sample: of the kept prompts with reused documents, how many are answered anew, each twice. tenant: whose; None:
    all tenants' and admins'. max_tokens: of each answer."""

    sample: Annotated[int, Meta(ge=1, le=32)] = 8
    max_tokens: Annotated[int, Meta(ge=1, le=64)] = 16
    tenant: Annotated[str, Meta(min_length=1, max_length=64)] | None = None


class CapacityQuestion(Body, frozen=True):
    """ranks: of the adapters. context_tokens: of each of `sequences` that run at the same time."""

    ranks: Ranks = field(default_factory=list)
    context_tokens: Annotated[int, Meta(ge=1, le=1 << 24)] = 4096
    sequences: Annotated[int, Meta(ge=1, le=1 << 16)] = 1


class NewProfile(Body, frozen=True):
    """kind: torch (operations), python (stacks), memory (what grows). replica: which engine; by default, the first that
    is ready."""

    kind: ProfileKind
    seconds: Annotated[float, Meta(ge=0.1, le=600)] = 5.0
    process: ProfiledProcess = "engine"
    replica: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
