"""Each document of a request computed by itself, before the request: its KV is then taken from there.

A prefill that fails, or goes to another engine than the request, costs time and nothing else: the document is then
computed where it stands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import closing
from typing import NamedTuple

from msgspec.structs import replace

from multiflora_adapters.kv_reach import KvReach
from multiflora_engine.cache.block_hashes import identity, prompt_hashes
from multiflora_engine.core.moved_spans import before_activation, moved_spans
from multiflora_engine.process.client import EngineUnavailable
from multiflora_engine.protocol.requests import GenerateRequest, TokenDelta
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_platform.engine import EngineHandle
from multiflora_platform.engine_requests import copy_request
from multiflora_platform.groups import Group
from multiflora_platform.text.off_loop import off_loop
from multiflora_platform.web.openai_errors import ApiError

_NO_CACHE = "the server runs without a prefix cache (--no-enable-prefix-caching)"
_NOTHING_WRITTEN = SamplingParams(temperature=0.0, max_tokens=0)


class PrefillCost(NamedTuple):
    """What documents took before their request: tokens that are in the cache because of it, and the device's time."""

    computed_tokens: int = 0
    device_seconds: float = 0.0

    def added_to(self, first: TokenDelta) -> TokenDelta:
        """The request's first delta as if it had computed all that itself."""
        cached = max(0, first.cached_tokens - self.computed_tokens)
        seconds = first.device_seconds + self.device_seconds
        return replace(first, cached_tokens=cached, device_seconds=seconds)


def require_reuse(engine: EngineHandle, *, has_cache: bool) -> None:
    """Raises ApiError where no document can be taken from elsewhere, with the reason."""
    if engine.ready is None:
        return  # sending the request says so
    why = engine.ready.why_keys_stay if has_cache else _NO_CACHE
    if why is not None:
        message = f"Documents cannot be reused approximately: {why}. Send them without reuse."
        raise ApiError(400, "reuse_unsupported", message, param="reuse", type="invalid_request_error")


async def prefill_documents(group: Group, reach: KvReach, request: GenerateRequest) -> PrefillCost:
    """Of each document what the engine will move, all at once; what is cached already is left out. reach: of the
    request's adapter."""
    ready = group.engine.ready
    if ready is None:
        return PrefillCost()
    ids, size = request.prompt_token_ids, ready.block_size
    _, activation, _ = identity(group.base_digest, reach, request.cache_salt, ids)
    spans = before_activation(moved_spans(request, size), activation)
    alone = [ids[: span.beginning] + ids[span.document : span.stop] for span in spans]
    costs = await asyncio.gather(*(_prefill(group, reach, request, ids, size) for ids in alone))
    return PrefillCost(sum(cost.computed_tokens for cost in costs), sum(cost.device_seconds for cost in costs))


async def _prefill(group: Group, reach: KvReach, request: GenerateRequest, ids: list[int], size: int) -> PrefillCost:
    """ids: whole blocks. size: of a block."""
    cached, seconds = 0, 0.0
    try:
        if await _is_cached(group, reach, request.cache_salt, ids, size):
            return PrefillCost()
        prefill = copy_request(
            request,
            prompt_token_ids=ids,
            params=_NOTHING_WRITTEN,
            documents=[],
            bad_word_ids=[],
            grammar=None,
            prediction_token_ids=None,
            is_prefix=True,
        )
        with closing(group.engine.generate(prefill)) as stream:
            async for delta in stream:
                if delta.failure is not None:
                    return PrefillCost(0, seconds)
                cached, seconds = max(cached, delta.cached_tokens), seconds + delta.device_seconds
    except EngineUnavailable:
        return PrefillCost(0, seconds)
    return PrefillCost(len(ids) - cached, seconds)


async def _is_cached(group: Group, reach: KvReach, salt: str, ids: Sequence[int], size: int) -> bool:
    hashes = await off_loop(len(ids), lambda: prompt_hashes(group.base_digest, reach, salt, ids, size))
    reply = await group.engine.cache("find", chain=b"".join(hashes))
    return reply.reached == len(hashes)
