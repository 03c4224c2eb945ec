"""/api/v1/cache: what the prefix cache holds, to whom it belongs, and steering it. Admins only."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import Response
from starlette.requests import Request

from multiflora_engine.protocol.messages import CacheNode, CacheReply
from multiflora_platform.auth.dependencies import require_admin
from multiflora_platform.auth.principals import Principal
from multiflora_platform.engine import EngineHandle
from multiflora_platform.gateway.background.reuse_audit import ReuseAuditor
from multiflora_platform.gateway.background.warming import Warmed, cache_principal, warm_prompt, warmed_ids
from multiflora_platform.gateway.explaining.inquiry import explain_logged
from multiflora_platform.gateway.generation.admission import wake
from multiflora_platform.gateway.generation.model_resolution import resolve_model
from multiflora_platform.gateway.refusals import as_problems
from multiflora_platform.groups import Group
from multiflora_platform.insight.bodies import AuditQuestion, WarmPrompt
from multiflora_platform.insight.logged_request import LoggedRequest
from multiflora_platform.insight.misses import losses_of, miss_of
from multiflora_platform.insight.views.cache import CacheAnswer, CacheRun, CacheText, CacheTrace, WarmAnswer
from multiflora_platform.insight.views.misses import LossPage, Miss, MissPage, ReuseAudit
from multiflora_platform.insight_api.asked_group import AskedGroup, AskedModel
from multiflora_platform.insight_api.engine_calls import reaching_engine, ready_engine
from multiflora_platform.insight_api.errors import NotCached
from multiflora_platform.prices import prices_of
from multiflora_platform.registry.routes.access import OneReplica
from multiflora_platform.registry.snapshot.version_names import DigestNames, names_of
from multiflora_platform.services import Services
from multiflora_platform.text.off_loop import off_loop
from multiflora_platform.web.json_bodies import read_json, schema
from multiflora_platform.web.openai_errors import invalid
from multiflora_platform.web.problems import Unavailable
from multiflora_platform.web.resources import answers, compressed, rendered

router = APIRouter(tags=["insight"], dependencies=[Depends(require_admin)])
Hash = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="of a run's last block, as /cache shows it")]
Admin = Annotated[Principal, Depends(require_admin)]
_MOST_MISSES = 200
_MOST_EXPLAINED = 100


@router.get("/cache", responses=answers(CacheAnswer))
async def get_cache(request: Request, group: AskedGroup, replica: OneReplica = None) -> Response:
    """Everything that is cached, as a tree of runs of blocks; the 500 longest of each engine."""
    services: Services = request.app.state.services
    with reaching_engine():
        engines = group.engine.each(replica)
        replies = await asyncio.gather(*(engine.cache("report") for engine in engines))
        stats, ready = group.engine.addressed(replica).stats, ready_engine(group.engine)
    snapshot = services.registry.snapshot
    per_block = ready.kv_bytes // max(1, ready.num_blocks)
    owners = services.keys.cache_owners()
    nodes = [
        _run(engine.id, node, names_of(snapshot, node.adapter), owners.get(node.owner, node.owner), per_block)
        for engine, reply in zip(engines, replies, strict=True)
        for node in reply.nodes
    ]
    return await compressed(
        request,
        CacheAnswer(
            blocks=sum(engine.ready.num_blocks for engine in engines if engine.ready is not None),
            free=stats.free_blocks,
            cached=stats.cached_blocks,
            block_size=ready.block_size,
            bytes_per_block=per_block,
            hits_tokens=stats.cache_hits,
            queries_tokens=stats.cache_queries,
            evictions=stats.evictions,
            tiers=stats.tiers,
            savings=services.insight.savings[group.base_digest].items(prices_of(services.settings)),
            nodes=nodes,
        ),
    )


@router.get("/cache/misses", responses=answers(MissPage))
async def list_misses(request: Request, group: AskedGroup, model: AskedModel = None) -> Response:
    """The last prompts of which the cache had less than it could have, and why; newest first."""
    found = islice(_missed(request, None if model is None else group), _MOST_MISSES)
    return await compressed(request, MissPage([miss for _, miss in found]))


@router.get("/cache/losses", responses=answers(LossPage))
async def list_losses(request: Request, group: AskedGroup, model: AskedModel = None) -> Response:
    """Tokens that the last 100 misses lost, by cause, with what to do about each."""
    services: Services = request.app.state.services
    entries = [entry for entry, _ in islice(_missed(request, None if model is None else group), _MOST_EXPLAINED)]
    explained = [(entry, await explain_logged(services, entry, None)) for entry in entries]
    return rendered(losses_of((entry.facts.id, found) for entry, found in explained))


def _missed(request: Request, group: Group | None) -> Iterator[tuple[LoggedRequest, Miss]]:
    """Newest first. group: of whose base model alone; None: of all."""
    log = request.app.state.services.insight.requests
    for entry in (log.find(one.id) for one in log.newest() if one.miss_reason):
        if group is not None and entry.facts.base_digest != group.base_digest:
            continue
        if miss := miss_of(entry.view()):
            yield entry, miss


@router.post("/cache:warm", responses=answers(WarmAnswer), openapi_extra=schema(WarmPrompt))
async def warm_cache(request: Request, replica: OneReplica = None) -> Response:
    """Computes a prompt or the beginning of a conversation now, so that a tenant's or admins' requests find it."""
    body = await read_json(request, WarmPrompt)
    services: Services = request.app.state.services
    owner = await cache_principal(services.keys, body.tenant)
    models = [services.groups.known_as(model) for model in dict.fromkeys([body.model, *body.adapters])]
    with as_problems():
        resolved = [resolve_model(services.registry, services.groups, owner, model, None) for model in models]
        group = resolved[0].group
        if other := next((one.model for one in resolved if one.group is not group), None):
            raise invalid("adapters", f"{other!r} belongs to another base model than {models[0]!r}.")
        ids = await warmed_ids(body, group.model, group.max_model_len)
        with group.used():
            if group.asleep:
                await wake(group, services.settings.adapter_timeout)
            found = await _warm(services, group, replica, [one.digest for one in resolved], ids, owner)
    cached = [one.cached_tokens for of_engines in found for one in of_engines]
    return rendered(WarmAnswer(sum(cached), len(ids) * len(cached) - sum(cached)))


async def _warm(
    services: Services,
    group: Group,
    replica: str | None,
    digests: Sequence[str | None],
    ids: list[int],
    owner: Principal,
) -> list[list[Warmed]]:
    """For each digest, of each engine. Raises Unavailable, ReplicaNotFound."""
    try:
        with reaching_engine():
            engines = group.engine.each(replica)
            return [await warm_prompt(engines, services.keys, digest, ids, owner) for digest in digests]
    except RuntimeError as error:
        raise Unavailable(f"The engine could not compute the prompt: {error}") from error


@router.post("/cache:audit", responses=answers(ReuseAudit), openapi_extra=schema(AuditQuestion))
async def audit_reuse(request: Request) -> Response:
    """Answers a sample of the last prompts with reused documents twice, exactly and not: how near that is."""
    body = await read_json(request, AuditQuestion)
    services: Services = request.app.state.services
    auditor = ReuseAuditor(services.groups, services.registry, services.keys, services.insight.prompts)
    return rendered(await auditor.audit(body))


@router.post("/cache:trace", responses=answers(CacheTrace))
async def take_cache_trace(group: AskedGroup) -> Response:
    """Hashes of the blocks of requests that ended since this was asked last; it records for a minute more."""
    reply = await _ask(group.engine, "trace")
    return rendered(CacheTrace(reply.traced, reply.lost, reply.has_more))


@router.get("/cache/{hash}/text", responses=answers(CacheText))
async def get_cached_text(
    group: AskedGroup,
    hash: Hash,
    limit: Annotated[int | None, Query(ge=1, description="only the first")] = None,
    replica: OneReplica = None,
) -> Response:
    """The tokens of one run, and what they say."""
    reply = await _ask(group.engine, "tokens", hash, replica)
    ids = reply.token_ids[:limit]
    return rendered(CacheText(ids, await off_loop(len(ids), lambda: group.model.tokenizer.decode(ids))))


@router.post("/cache/{hash}:pin", status_code=204)
async def pin_cached(
    request: Request, hash: Hash, principal: Admin, group: AskedGroup, replica: OneReplica = None
) -> Response:
    """The run and all before it stay cached until they are unpinned or the engine restarts."""
    return await _steer(request, principal, group, "pin", hash, replica)


@router.post("/cache/{hash}:unpin", status_code=204)
async def unpin_cached(
    request: Request, hash: Hash, principal: Admin, group: AskedGroup, replica: OneReplica = None
) -> Response:
    """It may be evicted again."""
    return await _steer(request, principal, group, "unpin", hash, replica)


@router.post("/cache/{hash}:drop", status_code=204)
async def drop_cached(
    request: Request, hash: Hash, principal: Admin, group: AskedGroup, replica: OneReplica = None
) -> Response:
    """The run and everything that continues it are found no more; requests that use them go on."""
    return await _steer(request, principal, group, "drop", hash, replica)


async def _steer(
    request: Request, principal: Principal, group: Group, action: str, hash: str, replica: str | None
) -> Response:
    services: Services = request.app.state.services
    await _ask(group.engine, action, hash, replica)
    await services.registry.note(principal.actor, f"cache.{action}", hash)
    return Response(status_code=204)


async def _ask(engine: EngineHandle, action: str, hash: str = "", replica: str | None = None) -> CacheReply:
    """Raises Unavailable, ReplicaNotFound, NotCached."""
    with reaching_engine():
        reply = await engine.addressed(replica).cache(action, hash)
    if reply.error is not None:
        raise NotCached(reply.error)
    return reply


def _run(replica: str, node: CacheNode, names: DigestNames, owner: str | None, per_block: int) -> CacheRun:
    shown: dict[str, Any] = {field: getattr(node, field) for field in CacheNode.__struct_fields__}
    shown |= {"digest": shown.pop("adapter"), "owner": owner or None, **names._asdict()}
    return CacheRun(**shown, replica=replica, bytes=node.blocks * per_block)
