"""Asks about a prompt: gathers what the gateway and the engine know of it, and has it explained.

Owns who may see what: a tenant's prompts are compared with its own alone.
"""

from __future__ import annotations

import time
from array import array
from functools import partial

from msgspec import structs

from multiflora_engine.cache.block_hashes import chain_of, prompt_hashes
from multiflora_platform.auth.limits.limits import Claim
from multiflora_platform.auth.principals import Principal
from multiflora_platform.gateway.explaining.elsewhere import tokens_elsewhere
from multiflora_platform.gateway.explaining.explanation import explain
from multiflora_platform.gateway.explaining.question import CacheState, Question, closest
from multiflora_platform.gateway.generation.model_resolution import ResolvedModel, resolve_model
from multiflora_platform.gateway.generation.start import cache_scope
from multiflora_platform.gateway.prompting.messages import chat_prompt
from multiflora_platform.gateway.prompting.tokenize import Prompt, PromptRoom, text_prompts
from multiflora_platform.gateway.prompting.tool_choice import offered_tools
from multiflora_platform.gateway.schemas.requests import ChatRequest
from multiflora_platform.groups import Group
from multiflora_platform.insight.bodies import CacheQuestion
from multiflora_platform.insight.kept_prompts import KeptPrompt, Outline, outline_of
from multiflora_platform.insight.logged_request import LoggedRequest, PromptFacts
from multiflora_platform.insight.views.misses import CacheExplanation
from multiflora_platform.services import Services
from multiflora_platform.text.off_loop import off_loop
from multiflora_platform.web.openai_errors import invalid, unavailable

_PATH = "/api/v1/cache:explain"
_UNLIKE = ("first_seen", "diverged")
"""Nothing more exact is known of what differs."""


class UnknownRequest(Exception):
    """The request to compare with is not one that is kept."""


async def explain_prompt(
    services: Services, principal: Principal, body: CacheQuestion, claim: Claim
) -> CacheExplanation:
    """Of a prompt as a request would send it now; claim: takes its tokens.
    Raises ApiError, EngineUnavailable, LimitReached, Unavailable, UnknownRequest."""
    chat = _chat(body)
    model = services.groups.known_as(body.model)
    resolved = resolve_model(services.registry, services.groups, principal, model, None)
    group, ready = resolved.group, resolved.group.engine.ready
    if ready is None:
        raise unavailable("The engine is not ready; it is starting or restarting.")
    ids = await _token_ids(group, body, chat)
    await claim.prompt(len(ids))
    ours = _prompt(services, resolved, principal, body, ids, outline_of(chat) if chat else Outline())
    theirs = None
    if body.compare is not None:
        theirs = services.insight.prompts.find(body.compare, principal.tenant, of_all=principal.is_admin)
        if theirs is None or theirs.facts.base_digest != group.base_digest:
            raise UnknownRequest
    base, reach = group.base_digest, services.registry.snapshot.kv_reach(ours.facts.digest)
    hashes = await off_loop(len(ids), partial(prompt_hashes, base, reach, ours.cache_salt, ids, ready.block_size))
    chain = chain_of(hashes, len(ids), ready.block_size)
    reply = await group.engine.cache("find", chain=chain)
    state = CacheState(
        cached_tokens=reply.reached * ready.block_size,
        block_size=ready.block_size,
        epochs={replica.id: replica.epoch for replica in group.engine.replicas},
        seconds_per_token=services.insight.savings[base].seconds_per_token(),
        was_evicted=reply.evicted,
    )
    return await _explained(services, group, ours, theirs, chat, state)


async def explain_started(
    services: Services, group: Group, principal: Principal, request_id: str, chat: ChatRequest, compare: str
) -> CacheExplanation | None:
    """Of a request that the engine has begun to answer, as the cache was then. Where the one to compare with is not
    kept, the closest is taken. None: it is too long to be kept."""
    insight = services.insight
    ours, entry = insight.prompts.find(request_id, principal.tenant), insight.requests.find(request_id)
    state = None if ours is None or entry is None else _as_it_was(services, group, ours, entry)
    if ours is None or state is None:
        return None
    theirs = insight.prompts.find(compare, principal.tenant, of_all=principal.is_admin)
    if theirs is not None and theirs.facts.base_digest != group.base_digest:
        theirs = None
    return await _explained(services, group, ours, theirs, chat, state)


async def explain_logged(services: Services, entry: LoggedRequest, chat: ChatRequest | None) -> CacheExplanation | None:
    """As `explain_started`, of one of the last requests, against the closest of those before it. chat: what it was made
    of, where that is known. None: its prompt is not kept, or the engine has not begun it."""
    ours = services.insight.prompts.find(entry.facts.id, entry.facts.tenant)
    group = next((one for one in services.groups if one.base_digest == entry.facts.base_digest), None)
    if ours is None or group is None:
        return None
    state = _as_it_was(services, group, ours, entry)
    return None if state is None else await _explained(services, group, ours, None, chat, state)


def _as_it_was(services: Services, group: Group, ours: KeptPrompt, entry: LoggedRequest) -> CacheState | None:
    """When the engine began the prompt; None: it has not."""
    ready = group.engine.ready
    if ours.life is None or ready is None:
        return None
    return CacheState(
        cached_tokens=entry.cached_tokens,
        block_size=ready.block_size,
        epochs={ours.life.replica: ours.life.epoch},
        seconds_per_token=services.insight.savings[group.base_digest].seconds_per_token(),
        was_evicted=entry.miss_reason == "evicted",
        wants_all=entry.miss_reason == "whole_prompt_asked",
    )


async def _explained(
    services: Services,
    group: Group,
    ours: KeptPrompt,
    theirs: KeptPrompt | None,
    chat: ChatRequest | None,
    state: CacheState,
) -> CacheExplanation:
    """theirs: as it was named; None: the closest one of the same base model that came before it."""
    of_tenant = services.insight.prompts.of(ours.facts.tenant)
    earlier = [one for one in of_tenant if one.facts.at <= ours.facts.at]
    kept = [one for one in earlier if one.facts.base_digest == group.base_digest]

    def work() -> CacheExplanation:
        other = theirs or closest(ours, kept, state)
        question = Question(ours, other, theirs is not None, chat, state, group.model)
        found = explain(question)
        if found.cause not in _UNLIKE:
            return found
        start = max(state.cached_tokens, question.shared)
        return structs.replace(found, elsewhere_tokens=tokens_elsewhere(ours, kept, start))

    return await off_loop(len(ours.ids) * (1 + len(kept)), work)


def _chat(body: CacheQuestion) -> ChatRequest | None:
    """None for a text or token ids. Raises ApiError."""
    if (body.prompt is None) == (body.messages is None):
        raise invalid("prompt", "Send either prompt, a text or token ids, or messages.")
    if body.messages is None:
        if body.tools is not None:
            raise invalid("tools", "tools go with messages; a prompt is text as it is.")
        return None
    return ChatRequest(
        model=body.model,
        messages=body.messages,
        tools=body.tools,
        chat_template_kwargs=body.chat_template_kwargs,
    )


async def _token_ids(group: Group, body: CacheQuestion, chat: ChatRequest | None) -> list[int]:
    """Raises ApiError."""
    model, room = group.model, PromptRoom(group.max_model_len, 1)
    if chat is not None:
        offered = structs.replace(chat, tools=offered_tools(chat.tools))
        return await chat_prompt(offered, model, room)
    assert body.prompt is not None, "one of both is given"
    prompt: Prompt = body.prompt if isinstance(body.prompt, str) else [*body.prompt]
    (ids,) = await text_prompts("prompt", prompt, True, model.tokenizer, model.vocab_size, room)
    return ids


def _prompt(
    services: Services,
    resolved: ResolvedModel,
    principal: Principal,
    body: CacheQuestion,
    ids: list[int],
    outline: Outline,
) -> KeptPrompt:
    """As it would be kept if it were asked now."""
    kv_digest, activated_at = resolved.kv_reach.in_prompt(ids)
    facts = PromptFacts(
        id="",
        at=time.time(),
        tenant=principal.tenant,
        model=body.model,
        adapter=resolved.adapter,
        version=resolved.number,
        digest=resolved.digest,
        path=_PATH,
        stream=False,
        prompt_tokens=len(ids),
        kv_digest=kv_digest,
        activated_at=activated_at,
        base_digest=resolved.group.base_digest,
    )
    salt = cache_scope(services.keys, principal, body.cache_salt).salt
    return KeptPrompt(facts, array("I", ids), salt, outline)
