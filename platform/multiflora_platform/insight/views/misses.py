"""Why prompts are not found in the cache, and what to do about it."""

from __future__ import annotations

import msgspec


class DriftItem(msgspec.Struct, frozen=True, kw_only=True):
    """Prompts that part over and over at one place. tenant: None for admins, and for what the chat template does.
    message, role: None in a text, and in the tools. position: the first character that changes, of the message's text,
    or of the prompt. share: of the tenant's prompts for the model, of the last hour (256 at most); prompts: how many.
    lost_tokens: of all of them, that would have been found without it. lost_seconds_per_minute: of the device,
    estimated."""

    tenant: str | None
    model: str
    message: int | None
    role: str | None
    position: int
    kind: str
    share: float
    prompts: int
    lost_tokens: int
    lost_seconds_per_minute: float
    example: str
    advice: str


class DriftPage(msgspec.Struct, frozen=True):
    """What costs most first."""

    items: list[DriftItem]


class Miss(msgspec.Struct, frozen=True):
    """reason: evicted, diverged, other_adapter, other_tenant, other_salt, whole_prompt_asked,
    engine_restarted, other_replica or first_seen; detail says it in words."""

    request_id: str
    at: float
    model: str
    prompt_tokens: int
    cached_tokens: int
    reason: str
    detail: str


class MissPage(msgspec.Struct, frozen=True):
    """Newest first."""

    items: list[Miss]


class FirstDifference(msgspec.Struct, frozen=True, kw_only=True):
    """Where two prompts part. token: its number, from 0. message, role: of the conversation asked about; None in a
    text, and where it is in no message, such as in the tools. before: what both have there; theirs, ours: what follows
    in the earlier prompt and in this one; some 40 characters each."""

    token: int
    message: int | None
    role: str | None
    before: str
    theirs: str
    ours: str


class CacheExplanation(msgspec.Struct, frozen=True, kw_only=True):
    """What the prefix cache has of a prompt, and why not more. lost_tokens: what an earlier request had computed, or
    would have if this one began as it did; lost_seconds: of the device, estimated. advice: the next step.
    elsewhere_tokens: of a prompt that is unlike earlier ones, those that they have behind another beginning."""

    prompt_tokens: int
    cached_tokens: int
    first_difference: FirstDifference | None
    cause: str
    lost_tokens: int
    lost_seconds: float
    advice: str
    elsewhere_tokens: int = 0


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """What prompts lost by one cause, as an explanation of each has it. request_id: the newest of them."""

    cause: str
    prompts: int
    lost_tokens: int
    lost_seconds: float
    elsewhere_tokens: int
    advice: str
    request_id: str


class LossPage(msgspec.Struct, frozen=True):
    """What costs most first. prompts: that were looked at; unexplained: of these, those that are not kept any more."""

    items: list[Loss]
    prompts: int
    unexplained: int


class AuditedPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt, answered exactly and with reused documents. tokens: of the exact answer; agreed_tokens: the first
    ones, which both have. first_distance: between the log-probabilities that both give the exact answer's first token;
    distance: the mean over all tokens up to the first that differs. reused_tokens: of the prompt, that were not
    computed. error: why it could not be answered."""

    request: str
    tenant: str | None
    model: str
    prompt_tokens: int
    reused_tokens: int
    tokens: int
    agreed_tokens: int
    same_answer: bool
    first_distance: float
    distance: float
    error: str | None


class ReuseAudit(msgspec.Struct, frozen=True, kw_only=True):
    """How near approximate reuse comes to exact answers. known: prompts with reused documents that are kept; audited:
    of those, which were answered. agreement: of all tokens of exact answers, those before the first that differs.
    reused_share: of all prompts' tokens. Distances: medians over prompts. None where nothing was audited."""

    known: int
    audited: int
    same_answers: int
    agreement: float | None
    reused_share: float | None
    first_distance: float | None
    distance: float | None
    items: list[AuditedPrompt]
