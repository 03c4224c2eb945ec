"""How near approximate reuse comes: prompts that clients sent, answered once more with reused documents and without.

Knows what was sent, not what was answered then. Greedy, so that both answers can be compared token by token.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from statistics import fmean, median

from multiflora_adapters.mixes.recipe import versions_in
from multiflora_engine.process.client import EngineUnavailable
from multiflora_engine.protocol.requests import DocumentSpan, GenerateRequest, PositionLogprobs
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_engine.protocol.sampling_ranges import MAX_LOGPROBS
from multiflora_platform.auth.account_problems import TenantNotFound
from multiflora_platform.auth.keys import KeyStore
from multiflora_platform.engine import EngineHandle
from multiflora_platform.engine_requests import make_request
from multiflora_platform.gateway.background.warming import cache_principal
from multiflora_platform.gateway.generation.document_prefills import prefill_documents
from multiflora_platform.gateway.generation.start import cache_scope
from multiflora_platform.groups import Group, Groups
from multiflora_platform.insight.bodies import AuditQuestion
from multiflora_platform.insight.kept_prompts import KeptPrompt, KeptPrompts
from multiflora_platform.insight.views.misses import AuditedPrompt, ReuseAudit
from multiflora_platform.registry.service import Registry
from multiflora_platform.text.common_beginning import num_alike


@dataclass
class GreedyAnswer:
    """What one greedy request got. failure: why it got nothing."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    cached_tokens: int = 0
    failure: str | None = None


class ReuseAuditor:
    def __init__(self, groups: Groups, registry: Registry, keys: KeyStore, prompts: KeptPrompts) -> None:
        self._groups = groups
        self._registry = registry
        self._keys = keys
        self._prompts = prompts

    async def audit(self, body: AuditQuestion) -> ReuseAudit:
        """One prompt after the other, as requests that no client waits for."""
        known = self._prompts.with_documents(body.tenant)
        sample = random.sample(known, min(body.sample, len(known)))
        items = [await self._audited(prompt, body.max_tokens) for prompt in sample]
        return summary(len(known), items)

    async def _audited(self, prompt: KeptPrompt, max_tokens: int) -> AuditedPrompt:
        group = self._groups.of_base(prompt.facts.base_digest)
        if group is None:
            gone = GreedyAnswer(failure="The base model of this prompt is not served any more.")
            return compared(prompt, gone, gone)
        with ExitStack() as held:
            held.enter_context(group.used())
            for version in versions_in(prompt.facts.digest):
                held.enter_context(self._registry.lease(version))
            exact = await self._answer(group, prompt, max_tokens, ())
            reused = await self._answer(group, prompt, max_tokens, prompt.documents)
        return compared(prompt, exact, reused)

    async def _answer(
        self, group: Group, prompt: KeptPrompt, max_tokens: int, documents: Sequence[DocumentSpan]
    ) -> GreedyAnswer:
        try:
            principal = await cache_principal(self._keys, prompt.facts.tenant)
        except TenantNotFound as error:
            return GreedyAnswer(failure=str(error))
        scope = replace(cache_scope(self._keys, principal), salt=prompt.cache_salt)
        request = make_request(
            [*prompt.ids],
            SamplingParams(temperature=0.0, max_tokens=max_tokens, logprobs=MAX_LOGPROBS),
            adapter_digest=prompt.facts.digest,
            cache=scope,
            background=True,
            documents=documents,
        )
        if documents:
            reach = self._registry.snapshot.kv_reach(prompt.facts.digest)
            await prefill_documents(group, reach, request)
        return await _read(group.engine, request)


async def _read(engine: EngineHandle, request: GenerateRequest) -> GreedyAnswer:
    answer = GreedyAnswer()
    try:
        async for delta in engine.generate(request):
            if delta.failure is not None:
                return GreedyAnswer(failure=delta.failure.message)
            answer.tokens += delta.token_ids
            answer.logprobs += delta.logprobs or []
            answer.cached_tokens = max(answer.cached_tokens, delta.cached_tokens)
    except EngineUnavailable as error:
        return GreedyAnswer(failure=error.message)
    return answer


def compared(prompt: KeptPrompt, exact: GreedyAnswer, reused: GreedyAnswer) -> AuditedPrompt:
    """Behind the first token that differs the texts are others, and nothing is compared."""
    agreed = num_alike(exact.tokens, reused.tokens)
    pairs = zip(exact.logprobs[: agreed + 1], reused.logprobs, strict=False)
    distances = [abs(one.chosen.logprob - _logprob(other, one.chosen.token_id)) for one, other in pairs]
    return AuditedPrompt(
        request=prompt.facts.id,
        tenant=prompt.facts.tenant,
        model=prompt.facts.model,
        prompt_tokens=len(prompt.ids),
        reused_tokens=reused.cached_tokens,
        tokens=len(exact.tokens),
        agreed_tokens=agreed,
        same_answer=exact.tokens == reused.tokens,
        first_distance=distances[0] if distances else 0.0,
        distance=fmean(distances) if distances else 0.0,
        error=exact.failure or reused.failure,
    )


def summary(known: int, items: Sequence[AuditedPrompt]) -> ReuseAudit:
    """Of those that could be answered."""
    whole = [item for item in items if item.error is None]
    tokens, prompts = sum(item.tokens for item in whole), sum(item.prompt_tokens for item in whole)
    return ReuseAudit(
        known=known,
        audited=len(whole),
        same_answers=sum(item.same_answer for item in whole),
        agreement=sum(item.agreed_tokens for item in whole) / tokens if tokens else None,
        reused_share=sum(item.reused_tokens for item in whole) / prompts if prompts else None,
        first_distance=median(item.first_distance for item in whole) if whole else None,
        distance=median(item.distance for item in whole) if whole else None,
        items=[*items],
    )


def _logprob(position: PositionLogprobs, token_id: int) -> float:
    """Of a token that is not among those shown, at most that of the least likely one."""
    shown = [position.chosen, *position.top]
    found = next((one.logprob for one in shown if one.token_id == token_id), None)
    return min(one.logprob for one in shown) if found is None else found
