"""From a checked body to running generations: which version, for whom, how urgent, until when.

A version is pinned here, once; its artifact stays leased until the request is over.
"""

from __future__ import annotations

import hashlib
import math
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from msgspec.structs import replace
from starlette.requests import Request

from multiflora_engine.protocol.requests import GenerateRequest, Pooling, SamplingParams
from multiflora_engine.protocol.sampling_params import bad_word_token_ids
from multiflora_platform.auth.principals import Principal
from multiflora_platform.gateway.beams.search import BeamParams
from multiflora_platform.gateway.generation.generation import Generation
from multiflora_platform.gateway.generation.metering import Meter
from multiflora_platform.gateway.generation.model_resolution import resolve_mix, resolve_model
from multiflora_platform.gateway.generation.rollout_watch import RolloutWatch
from multiflora_platform.gateway.schemas.requests import EngineRequest
from multiflora_platform.insight.request_log import PromptFacts
from multiflora_platform.observability.observers import Observer
from multiflora_platform.services import Services
from multiflora_platform.web.openai_errors import (
    ApiError,
    invalid,
    rate_limited,
    unavailable,
)
from multiflora_platform.web.refusals import LimitReached

_MAX_TIMEOUT = 86_400.0
_LOGGED_MODEL = 128
_PRIORITIES = 2**31
# A tenant's class decides before what its requests ask for; these are the classes' first priorities.
_CLASS_WIDTH = 1 << 20
_CLASSES = {"high": -_CLASS_WIDTH, "normal": 0, "low": _CLASS_WIDTH}


class Admission:
    """One HTTP request's claim on the engine; `close` gives back all of it. id: the answer's. arrival: Unix seconds."""

    def __init__(self, request: Request, principal: Principal, body: EngineRequest) -> None:
        self.services: Services = request.app.state.services
        self.id = uuid.uuid4().hex
        self.body = body
        self.arrival = time.time()
        self._principal = principal
        self._headers = request.headers
        self._path = request.url.path
        self._stream = bool(getattr(body, "stream", False))
        request.state.model = body.model[:_LOGGED_MODEL]
        self._held = ExitStack()
        if self.services.engine.ready is None:
            raise unavailable("The engine is not ready; it is starting or restarting.")
        self._deadline = _deadline(request, self.arrival)
        self._priority = _priority(body.priority, principal)
        if body.adapters:
            self.resolved = resolve_mix(self.services, principal, body.model, body.adapters, body.user)
        else:
            self.resolved = resolve_model(self.services, principal, body.model, body.user)
        request.state.limited = principal
        try:
            self._claim = self.services.limits.admit(principal)
        except LimitReached as reached:
            raise rate_limited(reached) from None
        self._held.callback(self._claim.close)
        for version in self.resolved.versions:
            self._held.enter_context(self.services.registry.lease(version))

    def close(self) -> None:
        """Idempotent; aborts what still runs."""
        self._held.close()

    def start(
        self,
        prompts: Sequence[tuple[list[int], SamplingParams]],
        *,
        beams: BeamParams | None = None,
        pooling: Pooling | None = None,
        grammar: str | None = None,
    ) -> list[Generation]:
        """Sends each prompt to the engine. grammar: for all their answers. Raises ApiError."""
        try:
            self._claim.prompt(sum(len(ids) for ids, _ in prompts))
        except LimitReached as reached:
            raise rate_limited(reached) from None
        return [self._start(ids, params, beams, pooling, grammar) for ids, params in prompts]

    def _start(
        self,
        ids: list[int],
        params: SamplingParams,
        beams: BeamParams | None,
        pooling: Pooling | None,
        grammar: str | None,
    ) -> Generation:
        tokenizer = self.services.model.tokenizer
        if beams is not None:
            params = replace(params, best_of=None)  # the width of the search, of which n answers come out
        request = GenerateRequest(
            id=uuid.uuid4().hex,
            prompt_token_ids=ids,
            params=params,
            adapter_digest=self.resolved.digest,
            cache_salt=self._cache_salt(),
            cache_owner=self.services.keys.cache_owner(self._principal),
            cache_share=self._principal.policy.kv_share,
            bad_word_ids=bad_word_token_ids(params.bad_words, lambda text: tokenizer.encode(text, False)),
            priority=self._priority,
            deadline=self._deadline,
            arrival_time=self.arrival,
            pooling=pooling,
            grammar=grammar,
        )
        metrics = self.services.metrics.prompt(self.resolved.adapter, len(ids), params, self.arrival)
        meter = Meter(self.services.usage, self._claim, self._principal.tenant, self.resolved.adapter, len(ids))
        watches = self.services.insight.follow_prompt(self._prompt_facts(request), self.body)
        observers: list[Observer] = [metrics, meter, *watches]
        if self.services.tracing is not None:
            observers.append(self.services.tracing.follow(self._headers, self._facts(request), self.arrival))
        if self.resolved.rollout is not None:
            rollouts, shadows = self.services.registry.rollouts, self.services.shadows
            observers.append(RolloutWatch(rollouts, shadows, self.resolved.rollout, self.resolved.number, request))
        generation = Generation(self.services, request, self.resolved.adapter, observers, beams)
        self._held.callback(generation.close)
        return generation

    def _prompt_facts(self, request: GenerateRequest) -> PromptFacts:
        return PromptFacts(
            id=request.id,
            at=self.arrival,
            tenant=self._principal.tenant,
            model=self.body.model,
            adapter=self.resolved.adapter,
            version=self.resolved.number,
            digest=self.resolved.digest,
            path=self._path,
            stream=self._stream,
            prompt_tokens=len(request.prompt_token_ids),
        )

    def _facts(self, request: GenerateRequest) -> dict[str, Any]:
        """What a trace says of a request, in OpenTelemetry's names where there are some."""
        params = request.params
        return {
            "gen_ai.request.id": request.id,
            "gen_ai.request.model": self.body.model,
            "gen_ai.request.max_tokens": params.max_tokens,
            "gen_ai.request.temperature": params.temperature,
            "gen_ai.request.top_p": params.top_p,
            "gen_ai.request.choice.count": params.n,
            "gen_ai.usage.input_tokens": len(request.prompt_token_ids),
            "multiflora.adapter": self.resolved.adapter,
            "multiflora.adapter_digest": self.resolved.digest,
            "multiflora.tenant": self._principal.tenant,
        }

    def _cache_salt(self) -> str:
        """The tenant's, narrowed by the client's: hashed together, so that no client can name another tenant's."""
        salt = self.services.keys.cache_salt(self._principal)
        if not self.body.cache_salt:
            return salt
        parts = (part.encode() for part in ("client-cache-salt", salt, self.body.cache_salt))
        return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).hexdigest()


def _deadline(request: Request, arrival: float) -> float | None:
    text = request.headers.get("x-request-timeout")
    if text is None:
        return None
    try:
        seconds = float(text)
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
