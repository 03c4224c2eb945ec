"""Liveness, readiness and metrics: what a process manager, a load balancer and Prometheus ask."""

from __future__ import annotations

import asyncio

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from multiflora_engine.process.client import EngineUnavailable
from multiflora_platform.auth.credentials import identify
from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.engine import runs
from multiflora_platform.groups import Group
from multiflora_platform.observability.artifact_metrics import ArtifactCounts
from multiflora_platform.observability.metrics import CONTENT_TYPE
from multiflora_platform.observability.nvml import gpus
from multiflora_platform.observability.scrape import EngineView, ReplicaView
from multiflora_platform.registry.service import Registry
from multiflora_platform.registry.serving.engine_link import with_disk
from multiflora_platform.services import Services
from multiflora_platform.web.openai_errors import RETRY_AFTER_SECONDS

router = APIRouter(tags=["operations"])
_STATUS_PATIENCE = 0.5


@router.get("/health/live")
async def live() -> Response:
    """200 as long as the process answers at all."""
    return _json(200, {"status": "live"})


@router.get("/health/ready")
async def ready(request: Request) -> Response:
    """200 when requests are served; 503 while the default base model's engines start or restart, and while the server
    drains. With a key, also the state of each base model that it may use: one that is idle is started by a request."""
    services: Services = request.app.state.services
    principal = identify(request, services.keys)
    shown = {} if principal is None else {"models": _states(services, principal)}
    return _json(200 if services.is_ready else 503, {"status": services.state, **shown})


def _states(services: Services, principal: Principal) -> dict[str, str]:
    """By name."""
    default, *others = services.groups
    states = {default.name: services.state}
    states |= {group.name: "idle" if group.asleep else group.engine.state for group in others}
    return {name: state for name, state in states.items() if principal.may_use(name)}


@router.get("/health")
async def health(request: Request) -> Response:
    """As /health/ready."""
    return await ready(request)


@router.get("/ping")
async def ping(request: Request) -> Response:
    """As /health/ready."""
    return await ready(request)


@router.post("/ping")
async def ping_by_post(request: Request) -> Response:
    """As /health/ready."""
    return await ready(request)


@router.get("/version", dependencies=[Depends(require_key)])
async def version(request: Request) -> Response:
    return _json(200, {"version": request.app.version})


@router.get("/load", dependencies=[Depends(require_key)])
async def load(request: Request) -> Response:
    """How many HTTP requests are being answered, without health checks and without this one."""
    services: Services = request.app.state.services
    return _json(200, {"server_load": services.in_flight - 1})


@router.get("/metrics")
async def metrics(request: Request, principal: Principal = Depends(require_key)) -> Response:
    """Tenants are named to admins' keys alone."""
    services: Services = request.app.state.services
    views = await asyncio.gather(*(_view(group, services.registry) for group in services.groups if runs(group.engine)))
    artifacts = ArtifactCounts.of_cache(services.registry.artifact_cache)
    page = services.metrics.render(views, await asyncio.to_thread(gpus), artifacts)
    if principal.is_admin:
        page += services.metrics.render_tenants()
    return Response(page, media_type=CONTENT_TYPE)


async def _view(group: Group, registry: Registry) -> EngineView:
    """Fresh numbers from the engines, or those of their last heartbeats when they are too busy to answer."""
    engine, active = group.engine, group.active
    stats, adapters = engine.stats, []
    # Before they are asked: their answers are news.
    replicas = [
        ReplicaView(one.id, one.state, one.restarts, one.pid, one.stats, one.state_age, one.ready)
        for one in engine.replicas
        if not one.retired
    ]
    try:
        status = await asyncio.wait_for(engine.status(), _STATUS_PATIENCE)
        stats, adapters = status.stats, with_disk(status.adapters, registry.snapshot.digests_on(group.base_digest))
    except (TimeoutError, EngineUnavailable):
        pass
    return EngineView(
        model=group.name,
        state=engine.state,
        restarts=engine.restarts,
        replicas=replicas,
        stats=stats,
        ready=engine.ready,
        adapters=adapters,
        running=[one.adapter for one in active if one.adapter and one.has_started],
        waiting=[one.adapter for one in active if one.adapter and not one.has_started],
    )


def _json(status: int, content: dict[str, object]) -> Response:
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 503 else None
    return Response(msgspec.json.encode(content), status, headers, "application/json")
