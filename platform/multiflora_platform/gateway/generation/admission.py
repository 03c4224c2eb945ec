"""What a request holds before anything is computed for it: which version, for whom, how urgent, until when.

A version is pinned here, once; its artifact stays leased until the request is over.
"""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from contextlib import ExitStack
from typing import Protocol

from msgspec.structs import replace
from starlette.requests import Request

from multiflora_engine.process.supervisor import EngineFailed
from multiflora_platform.auth.limits.limits import Claim, Limits
from multiflora_platform.auth.principals import Principal
from multiflora_platform.gateway.generation.model_resolution import (
    ADAPTERS_ARE_OFF,
    ResolvedModel,
    ready_fingerprint,
    resolve,
    resolve_model,
)
from multiflora_platform.gateway.schemas.requests import EngineRequest
from multiflora_platform.groups import Group, Groups
from multiflora_platform.registry.errors import SourceRefused, VersionRejected
from multiflora_platform.registry.intake.first_use import FirstUse
from multiflora_platform.registry.service import Registry
from multiflora_platform.settings import Settings
from multiflora_platform.web.openai_errors import ApiError, invalid, limits_told, model_not_found, unavailable
from multiflora_platform.web.problems import Problem

_MAX_TIMEOUT = 86_400.0
_LOGGED_MODEL = 128
_REASONS_SHOWN = 3
_PRIORITIES = 2**31
# A tenant's class decides before what its requests ask for; these are the classes' first priorities.
_CLASS_WIDTH = 1 << 20
_CLASSES = {"high": -_CLASS_WIDTH, "normal": 0, "low": _CLASS_WIDTH}


class AdmissionParts(Protocol):
    """What admitting a request takes of the server's parts."""

    groups: Groups
    registry: Registry
    limits: Limits
    settings: Settings


async def admit(parts: AdmissionParts, request: Request, principal: Principal, body: EngineRequest) -> Admission:
    """A request's claim; adapters that a resolver has are registered first. Raises ApiError."""
    await _bring_unknown(parts, request, principal, [body.model, *(part.name for part in body.adapters or ())])
    admission = Admission(parts, request, principal, body)
    try:
        # Here, not in a method: the request's way does not come back to this file.
        request.state.limited = principal
        with limits_told():
            admission.claim = await parts.limits.admit(principal)
        admission.held.callback(admission.claim.close)
        if not admission.fingerprint:
            await admission.wake(parts.settings.adapter_timeout)
    except BaseException:
        admission.close()
        raise
    return admission


async def find_model(parts: AdmissionParts, request: Request, model: str, user: str | None = None) -> ResolvedModel:
    """What a request's model means where nothing is generated; also this is the first use of one that a resolver has.
    Raises ApiError."""
    principal: Principal = request.state.principal
    await _bring_unknown(parts, request, principal, [model])
    return resolve_model(parts.registry, parts.groups, principal, parts.groups.known_as(model), user)


async def _bring_unknown(parts: AdmissionParts, request: Request, principal: Principal, models: list[str]) -> None:
    first_use = parts.registry.first_use
    if first_use is None:
        return
    names = [parts.groups.known_as(model) for model in models]
    unknown = [name for name in names if not parts.groups.named(name) and not parts.registry.resolve(name, None)]
    if unknown:
        now = time.time()
        deadline = _deadline(request.headers.get("x-request-timeout"), now)
        patience = parts.settings.adapter_timeout
        until = now + patience if deadline is None else min(deadline, now + patience)
        for name in unknown:
            await _bring(first_use, name, principal, until - time.time())


async def _bring(first_use: FirstUse, name: str, principal: Principal, seconds: float) -> None:
    shown = name[:_LOGGED_MODEL]
    try:
        await first_use.bring(name, principal, seconds)
    except TimeoutError:
        raise unavailable(f"The adapter {shown!r} is being registered; try again.", "adapter_loading") from None
    except VersionRejected as error:
        listed = " ".join(str(row["message"]) for row in error.errors[:_REASONS_SHOWN]) or error.detail
        raise invalid("model", f"The adapter {shown!r} was rejected: {listed}", "adapter_rejected") from None
    except SourceRefused:
        # Its text names folders of this server.
        raise invalid("model", f"The adapter {shown!r} may not be read by this server.", "adapter_rejected") from None
    except Problem as error:
        if error.status < 500:
            detail = f"The adapter {shown!r} was rejected: {error.detail}"
            raise invalid("model", detail, "adapter_rejected") from None
        raise unavailable(f"The adapter {shown!r}: {error.detail}", "adapter_unavailable") from None


class Admission:
    """One HTTP request's claim on the engine; `admit` makes it. Raises ApiError for what the request may not have."""

    claim: Claim
    """On the tenant's limits; `admit` sets it."""

    def __init__(self, parts: AdmissionParts, request: Request, principal: Principal, body: EngineRequest) -> None:
        self.id = uuid.uuid4().hex
        """The answer's, without the prefix that each API puts before it."""
        self.arrival = time.time()
        self.body = body
        self.principal = principal
        self.path = request.url.path
        self.headers = request.headers
        self.state = request.state
        """Of the HTTP request, for its log line."""
        self.state.model = body.model[:_LOGGED_MODEL]
        self.deadline = _deadline(request.headers.get("x-request-timeout"), self.arrival)
        """Unix seconds."""
        self.priority = _priority(body.priority, principal)
        """As the engine reads it: smaller runs first."""
        self.is_background = getattr(request.state, "is_background", False)
        """No client waits for the answer; only what makes requests inside the server says so."""
        registry, max_rank = parts.registry, parts.settings.max_lora_rank
        model = parts.groups.known_as(body.model)
        named = body if model == body.model else replace(body, model=model)
        self.resolved = resolve(registry, parts.groups, principal, named, max_rank)
        self.group = group = self.resolved.group
        """That answers."""
        self.fingerprint = "" if group.asleep else ready_fingerprint(self.resolved)
        """The system_fingerprint; empty while `wake` has to be waited for."""
        if self.resolved.adapter is not None and not parts.settings.enable_lora:
            raise model_not_found(model, reason=ADAPTERS_ARE_OFF)
        self.held = ExitStack()
        """Of all that must end with the request: generations, leases, the claim."""
        self.close = self.held.close
        """Gives back all of it and aborts what still runs. Idempotent."""
        self.held.enter_context(group.used())
        for version in self.resolved.versions:
            self.held.enter_context(registry.lease(version))

    async def wake(self, patience: float) -> None:
        """Waits for the group's engines, so many seconds or until the deadline. Raises ApiError."""
        until = self.arrival + patience if self.deadline is None else min(self.arrival + patience, self.deadline)
        await wake(self.group, until - time.time())
        self.fingerprint = ready_fingerprint(self.resolved)


async def wake(group: Group, patience: float) -> None:
    """Waits for the engines of a group that is asleep, so many seconds. Raises ApiError."""
    assert group.waker is not None, "a group without one is ready or refused"
    try:
        await asyncio.wait_for(group.waker.wake(), max(0.0, patience))
    except TimeoutError:
        raise unavailable(f"The base model {group.name!r} is being loaded; try again.", "model_loading") from None
    except EngineFailed as error:
        raise unavailable(f"The base model {group.name!r} cannot be loaded: {error.message}") from None


def _deadline(timeout: str | None, arrival: float) -> float | None:
    if timeout is None:
        return None
    try:
        seconds = float(timeout)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= _MAX_TIMEOUT:
        raise invalid("X-Request-Timeout", f"X-Request-Timeout must be seconds, above 0 and at most {_MAX_TIMEOUT:g}.")
    return arrival + seconds


def _priority(priority: int | None, principal: Principal) -> int:
    first = _CLASSES[principal.policy.priority]
    if priority is None:
        return first
    if not -_PRIORITIES <= priority < _PRIORITIES:
        raise invalid("priority", "priority must be a 32-bit integer; smaller runs first.")
    if priority < 0 and not principal.is_admin:
        raise ApiError(403, "forbidden", "A priority below 0 needs an admin key.", param="priority")
    return priority if principal.is_admin else first + min(priority, _CLASS_WIDTH - 1)
