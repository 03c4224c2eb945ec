"""Requests that ran, and what was kept of them."""

from __future__ import annotations

import msgspec

from multiflora_platform.engine import Placement
from multiflora_platform.prices import Cost


class Stage(msgspec.Struct, frozen=True):
    """stage: queue, load, prefill or decode."""

    stage: str
    start: float
    end: float


class KeptBody(msgspec.Struct, frozen=True):
    """request: as it was read, with what was left out filled in. answers: their texts so far."""

    request: msgspec.Raw
    answers: list[str]


class RequestView(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt. status and code: as answered; None while it runs. miss_reason: see Miss. key_id: of the key that it
    came with; None where no valid key came."""

    id: str
    at: float
    tenant: str | None
    key_id: str | None
    model: str
    adapter: str | None
    version: int | None
    digest: str | None
    path: str
    stream: bool
    status: int | None
    code: str | None
    prompt_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    completion_tokens: int
    finish_reason: str | None
    queue_seconds: float | None
    load_seconds: float | None
    prefill_seconds: float | None
    decode_seconds: float | None
    ttft: float | None
    total_seconds: float | None
    device_seconds: float
    miss_reason: str
    timeline: list[Stage]
    count: int = 1
    """Requests that this stands for: refusals that are equal are one, with the last one's time."""
    cost: Cost | None = None
    """None where no prices are set."""
    placement: Placement | None = None
    """Which engine has it, and why; None where none does, and of a search with beams."""
    body: KeptBody | None = None


class RequestPage(msgspec.Struct, frozen=True):
    """Newest first."""

    items: list[RequestView]
    next_page_token: str | None
    cursor: str
    """For `since`: what changed after this answer."""
    is_complete: bool
    """False where only what changed since is here; True too where `since` was of another process."""
