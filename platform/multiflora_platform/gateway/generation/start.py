"""Prompts on their way to the engine: the request made, its observers gathered, sent, and held until it is over."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

from msgspec.structs import replace

from multiflora_engine.process.client import EngineUnavailable
from multiflora_engine.process.token_stream import TokenStream
from multiflora_engine.protocol.requests import DocumentSpan, GenerateRequest, Pooling
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_platform.auth.keys import KeyStore
from multiflora_platform.auth.metering import Meter
from multiflora_platform.auth.principals import Principal
from multiflora_platform.auth.usage import UsageLedger
from multiflora_platform.contexts.metering import ContextMeter
from multiflora_platform.contexts.service import Contexts
from multiflora_platform.engine import EngineHandle
from multiflora_platform.engine_requests import CacheScope, make_request
from multiflora_platform.gateway.beams.search import BeamParams
from multiflora_platform.gateway.beams.stream import BeamStream
from multiflora_platform.gateway.generation.admission import Admission
from multiflora_platform.gateway.generation.asked_prompts import asked_prompt
from multiflora_platform.gateway.generation.collect import AT_ONCE
from multiflora_platform.gateway.generation.document_prefills import PrefillCost, prefill_documents
from multiflora_platform.gateway.generation.generation import Generation
from multiflora_platform.gateway.generation.rollout_watch import RolloutWatch, SplitObserver
from multiflora_platform.insight.insight import Insight
from multiflora_platform.insight.logged_request import PromptFacts
from multiflora_platform.observability.metrics import Metrics
from multiflora_platform.observability.observers import Observer
from multiflora_platform.observability.tracing import Tracing
from multiflora_platform.registry.service import Registry
from multiflora_platform.registry.shadow_runs import Shadows
from multiflora_platform.traffic import ActivePrompt
from multiflora_platform.web.openai_errors import ApiError, limits_told, unavailable

# The engine enforces deadlines itself; this is for an engine that has stopped answering.
_DEADLINE_GRACE = 0.25


class StartParts(Protocol):
    """What sending a prompt, and watching it, takes of the server's parts."""

    keys: KeyStore
    active: set[ActivePrompt]
    metrics: Metrics
    usage: UsageLedger
    insight: Insight
    tracing: Tracing | None
    registry: Registry
    shadows: Shadows
    contexts: Contexts


async def start(
    parts: StartParts,
    admission: Admission,
    prompts: Sequence[tuple[list[int], SamplingParams]],
    *,
    beams: BeamParams | None = None,
    pooling: Pooling | None = None,
    grammar: str | None = None,
    marker_ids: frozenset[int] = frozenset(),
    prediction: list[int] | None = None,
    documents: Sequence[DocumentSpan] = (),
    observers: Sequence[Observer] = (),
) -> list[Generation]:
    """Sends each prompt to the engine; among many, other requests get their turns. beams, pooling, grammar, prediction
    (of the answers, as token ids): for all of them. documents: of the only prompt, those to be reused.
    marker_ids: special tokens that stay in the answers' text. observers: beside the server's own. Raises ApiError."""
    with limits_told():
        await admission.claim.prompt(sum(len(ids) for ids, _ in prompts))
    cache = cache_scope(parts.keys, admission.principal, admission.body.cache_salt)
    resolved, group = admission.resolved, admission.group
    generations: list[Generation] = []
    for ids, params in prompts:
        if beams is not None:
            params = replace(params, best_of=None)  # the width of the search, of which n answers come out
        request = make_request(
            ids,
            params,
            group.model.tokenizer,
            group.model.vocab_size,
            adapter_digest=resolved.digest,
            cache=cache,
            priority=admission.priority,
            background=admission.is_background,
            deadline=admission.deadline,
            arrival_time=admission.arrival,
            pooling=pooling,
            grammar=grammar,
            speculation=admission.body.speculation,
            prediction=prediction,
            documents=documents,
        )
        before = await prefill_documents(group, resolved.kv_reach, request) if documents else None
        generations.append(_start_one(parts, admission, request, beams, marker_ids, observers, before))
        if len(generations) % AT_ONCE == 0:
            await asyncio.sleep(0)
            if any(generation.stream.has_failed for generation in generations):
                break  # the reader of all of them meets the failure
    return generations


def cache_scope(keys: KeyStore, principal: Principal, client_salt: str | None = None) -> CacheScope:
    """The principal's part of the cache. client_salt: the request's cache_salt, which narrows it further."""
    salt = keys.cache_salt(principal)
    if client_salt:
        # Hashed together with the tenant's, so that no client can name another tenant's salt.
        parts = (part.encode() for part in ("client-cache-salt", salt, client_salt))
        salt = hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).hexdigest()
    return CacheScope(salt, keys.cache_owner(principal), principal.policy.kv_share)


def _start_one(
    parts: StartParts,
    admission: Admission,
    request: GenerateRequest,
    beams: BeamParams | None,
    marker_ids: frozenset[int],
    further: Sequence[Observer],
    before: PrefillCost | None,
) -> Generation:
    resolved, group = admission.resolved, admission.group
    stream = _send(group.engine, request, beams)
    observers = [*_observers(parts, admission, request), *further]
    admission.state.is_listed = True
    generation = Generation(
        request, resolved.adapter, stream, group.model.tokenizer, observers, marker_ids, resolved.part_names, before
    )
    for active in (parts.active, group.active):
        active.add(generation)
        admission.held.callback(active.discard, generation)
    if admission.deadline is not None:
        admission.held.callback(_expire_later(generation, admission.deadline).cancel)
    admission.held.callback(generation.close)
    return generation


def _send(engine: EngineHandle, request: GenerateRequest, beams: BeamParams | None) -> TokenStream | BeamStream:
    try:
        return engine.generate(request) if beams is None else BeamStream(engine, request, beams)
    except EngineUnavailable as error:
        raise unavailable(error.message, error.code) from None


def _expire_later(generation: Generation, deadline: float) -> asyncio.TimerHandle:
    delay = max(0.0, deadline - time.time()) + _DEADLINE_GRACE
    error = ApiError(504, "deadline_exceeded", "The request's deadline passed before the answer was complete.")
    return asyncio.get_running_loop().call_later(delay, generation.fail, error)


def _observers(parts: StartParts, admission: Admission, request: GenerateRequest) -> list[Observer]:
    """Metrics, usage, insight, and what is switched on: traces, the watch on a split or a rollout."""
    resolved = admission.resolved
    num_prompt = len(request.prompt_token_ids)
    tenant, insight = admission.principal.tenant, parts.insight
    metrics, savings = parts.metrics.of(admission.group.name), insight.savings[admission.group.base_digest]
    observers: list[Observer] = [
        metrics.prompt(resolved.adapter, tenant, num_prompt, request.params, admission.arrival),
        *insight.follow_prompt(_prompt_facts(admission, request), request, admission.body, admission.group),
        # Behind insight, which learns from this prompt what a token takes.
        Meter(
            parts.usage, admission.claim, admission.principal, resolved.adapter, num_prompt, savings.seconds_per_token
        ),
    ]
    name = getattr(admission.body, "context", None)
    context = parts.contexts.book.find((tenant or "", name)) if name else None
    if context is not None:
        tokens = context.definition.tokens_on(admission.group.base_digest)
        observers.append(ContextMeter(parts.contexts.book, context.id, tokens, savings.seconds_per_token))
    engine = admission.group.engine
    if len(engine.replicas) > 1:
        observers.append(metrics.router.follow(lambda: engine.placement_of(request.id)))
    if parts.tracing is not None:
        facts = _trace_facts(admission, request)
        observers.append(parts.tracing.follow(admission.headers, facts, admission.arrival))
    if resolved.split is not None:
        observers.append(SplitObserver(parts.registry.splits, resolved.split, resolved.number))
    if resolved.rollout is not None:
        rollouts, shadows = parts.registry.rollouts, parts.shadows
        asked = partial(asked_prompt, admission, request)
        observers.append(RolloutWatch(rollouts, shadows, resolved.rollout, resolved.number, request, engine, asked))
    return observers


def _prompt_facts(admission: Admission, request: GenerateRequest) -> PromptFacts:
    kv_digest, activated_at = admission.resolved.kv_reach.in_prompt(request.prompt_token_ids)
    return PromptFacts(
        id=request.id,
        at=admission.arrival,
        tenant=admission.principal.tenant,
        model=admission.body.model,
        adapter=admission.resolved.adapter,
        version=admission.resolved.number,
        digest=admission.resolved.digest,
        path=admission.path,
        stream=bool(getattr(admission.body, "stream", False)),
        prompt_tokens=len(request.prompt_token_ids),
        answer=admission.id,
        kv_digest=kv_digest,
        activated_at=activated_at,
        key_id=admission.principal.key_id,
        base_digest=admission.group.base_digest,
        http_id=getattr(admission.state, "request_id", ""),
    )


def _trace_facts(admission: Admission, request: GenerateRequest) -> dict[str, Any]:
    """What a trace says of a request, in OpenTelemetry's names where there are some."""
    params = request.params
    return {
        "gen_ai.request.id": request.id,
        "gen_ai.request.model": admission.body.model,
        "gen_ai.request.max_tokens": params.max_tokens,
        "gen_ai.request.temperature": params.temperature,
        "gen_ai.request.top_p": params.top_p,
        "gen_ai.request.choice.count": params.n,
        "gen_ai.usage.input_tokens": len(request.prompt_token_ids),
        "multiflora.adapter": admission.resolved.adapter,
        "multiflora.adapter_digest": admission.resolved.digest,
        "multiflora.tenant": admission.principal.tenant,
    }
