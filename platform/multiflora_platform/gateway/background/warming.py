"""Runs an adapter's warm-up prompts, so that the prefix cache knows them before the first request does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_platform.auth.keys import KeyStore
from multiflora_platform.auth.principals import Principal
from multiflora_platform.engine import EngineCalls, EngineHandle
from multiflora_platform.engine_requests import make_request
from multiflora_platform.gateway.generation.start import cache_scope
from multiflora_platform.gateway.prompting.messages import chat_prompt
from multiflora_platform.gateway.prompting.tokenize import PromptRoom, text_prompts
from multiflora_platform.gateway.prompting.tool_choice import offered_tools
from multiflora_platform.gateway.schemas.requests import ChatRequest
from multiflora_platform.groups import ServedModel
from multiflora_platform.insight.bodies import WarmPrompt
from multiflora_platform.registry.schemas.fields import Warmup, WarmupPrompt
from multiflora_platform.text.off_loop import off_loop
from multiflora_platform.web.openai_errors import ApiError, invalid

# Warm-up must not wait behind the traffic that it is to help, nor push it aside.
_PRIORITY = 0


class Warmed(NamedTuple):
    """What one engine did for a prompt: of its tokens, those that it had, and those that it added to the cache."""

    tokens: int
    cached_tokens: int
    written_tokens: int
    device_seconds: float


class PromptWarmer:
    """`run` is the registry's RunPrompts."""

    def __init__(self, engine: EngineHandle, model: ServedModel, keys: KeyStore) -> None:
        self._engine = engine
        self._model = model
        self._keys = keys

    async def run(self, digest: str, prompts: Sequence[Warmup], owner: str | None, replica: str | None = None) -> None:
        """One after the other, one token each; a text longer than the model is cut. replica: the only engine that
        computes them; None: each does.

        Cached prefixes are a tenant's own: those of the tenant that a prompt names are warmed, else those of the
        adapter's owner, or the admins'. Raises RuntimeError, TenantNotFound.
        """
        for prompt in prompts:
            named = prompt.tenant if isinstance(prompt, WarmupPrompt) else None
            principal = await cache_principal(self._keys, named or owner)
            ids = await self._ids(prompt)
            if ids:
                await warm_prompt(self._engine.each(replica), self._keys, digest, ids, principal)

    async def _ids(self, prompt: Warmup) -> list[int]:
        longest = self._model.longest(self._engine)
        text = prompt if isinstance(prompt, str) else prompt.prompt
        if text is not None:
            ids = await off_loop(len(text), partial(self._model.tokenizer.encode, text))
            return ids[: longest - 1]
        assert isinstance(prompt, WarmupPrompt), "what is no text is a conversation"
        asked = WarmPrompt(model=self._model.name, messages=prompt.messages, tools=prompt.tools)
        try:
            return await warmed_ids(asked, self._model, longest)
        except ApiError as error:
            raise RuntimeError(error.message) from error


async def cache_principal(keys: KeyStore, tenant: str | None) -> Principal:
    """Whose part of the cache is warmed: the tenant's, or (None) the admins'. Raises TenantNotFound."""
    if tenant is None:
        return Principal("admin", None, "warm-up")
    row = await keys.tenants.one(tenant)
    return Principal("tenant", tenant, "warm-up", row.id, policy=await keys.tenants.policy(tenant))


async def warmed_ids(body: WarmPrompt, model: ServedModel, limit: int) -> list[int]:
    """Its tokens, as a completion or a chat that begins so has them. limit: of prompt and answer. Raises ApiError."""
    if (body.prompt is None) == (body.messages is None):
        raise invalid("prompt", "Send either prompt, a text, or messages.")
    room = PromptRoom(limit, 1)
    if body.prompt is not None:
        if body.tools is not None:
            raise invalid("tools", "tools go with messages; a prompt is text as it is.")
        (ids,) = await text_prompts("prompt", body.prompt, True, model.tokenizer, model.vocab_size, room)
        return ids
    chat = ChatRequest(model=body.model, messages=body.messages or [], tools=offered_tools(body.tools))
    return await chat_prompt(chat, model, room)


async def warm_prompt(
    engines: Sequence[EngineCalls],
    keys: KeyStore,
    digest: str | None,
    ids: list[int],
    principal: Principal,
    priority: int = _PRIORITY,
) -> list[Warmed]:
    """Computes a prompt for the principal's cache on each engine.

    digest: of the adapter, None for the base. priority: a request's.
    Raises EngineUnavailable, or RuntimeError with an engine's reason.
    """
    return await asyncio.gather(*(_warm(engine, keys, digest, ids, principal, priority) for engine in engines))


async def _warm(
    engine: EngineCalls, keys: KeyStore, digest: str | None, ids: list[int], principal: Principal, priority: int
) -> Warmed:
    request = make_request(
        ids,
        SamplingParams(temperature=0.0, max_tokens=1),
        adapter_digest=digest,
        cache=cache_scope(keys, principal),
        priority=priority,
        background=True,
        is_prefix=True,
    )
    cached = written = 0
    device_seconds = 0.0
    async for delta in engine.generate(request):
        if delta.failure is not None:
            raise RuntimeError(delta.failure.message)
        cached, written = max(cached, delta.cached_tokens), max(written, delta.cache_write_tokens)
        device_seconds += delta.device_seconds
    return Warmed(len(ids), cached, written, device_seconds)
