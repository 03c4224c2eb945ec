"""/api/v1/series, alerts, slots, capacity, settings and doctor: what admins see of a running server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response
from starlette.requests import Request

from multiflora_engine.protocol.messages import EvictionForecast
from multiflora_platform.auth.dependencies import require_admin
from multiflora_platform.configuration import value_and_source
from multiflora_platform.engine import ReplicaHandle
from multiflora_platform.groups import Groups
from multiflora_platform.insight.bodies import CapacityQuestion
from multiflora_platform.insight.capacity import capacity
from multiflora_platform.insight.series import MINUTES, SECONDS
from multiflora_platform.insight.views.activity import AlertPage, SeriesAnswer
from multiflora_platform.insight.views.server import DoctorPage, DoctorRow, SettingPage, SettingView
from multiflora_platform.insight.views.slots import (
    CapacityAnswer,
    ReplicaSlots,
    SlotForecast,
    SlotMoment,
    SlotResident,
    SlotsAnswer,
)
from multiflora_platform.insight_api.asked_group import AskedGroup
from multiflora_platform.insight_api.engine_calls import reaching_engine, ready_engine
from multiflora_platform.observability.machine import checks, sizes_check
from multiflora_platform.registry.routes.access import OneReplica
from multiflora_platform.registry.snapshot.snapshot import Snapshot
from multiflora_platform.registry.snapshot.version_names import names_of
from multiflora_platform.services import Services
from multiflora_platform.settings import Settings
from multiflora_platform.text.template_lint import template_checks
from multiflora_platform.web.json_bodies import read_json, schema
from multiflora_platform.web.resources import answers, compressed, event_stream, rendered

router = APIRouter(tags=["insight"], dependencies=[Depends(require_admin)])


@router.get("/series", responses=answers(SeriesAnswer))
async def get_series(request: Request, window: Annotated[int, Query(ge=1, le=MINUTES * 60)] = SECONDS) -> Response:
    """The last `window` seconds: second by second up to 15 minutes, beyond that minute by minute."""
    return await compressed(request, _services(request).insight.series.window(window))


@router.get("/series/stream", include_in_schema=False)
async def stream_series(request: Request) -> Response:
    """Server-sent events: a `point` each second."""

    async def frames() -> AsyncIterator[bytes]:
        async for point in _services(request).insight.points():
            yield b"event: point\ndata: %s\n\n" % msgspec.json.encode(point)

    return event_stream(request, frames())


@router.get("/alerts", responses=answers(AlertPage))
async def list_alerts(request: Request) -> Response:
    """What to look at now, the worst first."""
    return rendered(AlertPage(_services(request).insight.look()))


@router.get("/slots", responses=answers(SlotsAnswer))
async def get_slots(request: Request, group: AskedGroup, replica: OneReplica = None) -> Response:
    """Which adapters are on the device of each engine, and the last loads and evictions."""
    snapshot = _services(request).registry.snapshot
    with reaching_engine():
        engines = group.engine.each(replica)
        shown = await asyncio.gather(*(_slots_of(engine, snapshot) for engine in engines))
    return await compressed(request, SlotsAnswer(shown))


async def _slots_of(engine: ReplicaHandle, snapshot: Snapshot) -> ReplicaSlots:
    status, history = await engine.status(), await engine.slot_history()
    ready = ready_engine(engine)
    residents = [
        SlotResident(
            a.slot, a.digest, *names_of(snapshot, a.digest), a.rank, a.bytes, a.pinned, a.running, a.idle_seconds,
            a.first_row,
        )
        for a in status.adapters
        if a.slot is not None and a.first_row is not None
    ]  # fmt: skip
    timeline = [
        SlotMoment(e.at, e.event, e.slot, e.digest, *names_of(snapshot, e.digest), e.seconds, e.bytes)
        for e in history.events
    ]
    forecasts = [_forecast_of(one, snapshot) for one in history.forecasts]
    taken = sum(resident.bytes for resident in residents)
    return ReplicaSlots(engine.id, status.pid, ready.lora_slots, ready.lora_rows, taken, residents, timeline, forecasts)


def _forecast_of(forecast: EvictionForecast, snapshot: Snapshot) -> SlotForecast:
    digests = forecast.digests or []
    versions = [names_of(snapshot, digest)[1] for digest in digests]
    return SlotForecast(forecast.rank, forecast.digests is not None, digests, versions)


@router.post("/capacity", responses=answers(CapacityAnswer), openapi_extra=schema(CapacityQuestion))
async def ask_capacity(request: Request, group: AskedGroup) -> Response:
    """Whether adapters of these ranks and so much context fit at the same time."""
    body = await read_json(request, CapacityQuestion)
    base, ready = _services(request).registry.base_of(group.base_digest), ready_engine(group.engine)
    return rendered(capacity(base, ready, body.ranks, body.context_tokens, body.sequences))


@router.get("/settings", responses=answers(SettingPage))
async def list_settings(request: Request) -> Response:
    """Every setting, and where its value came from; no secrets. What the engine chooses is as it chose."""
    services = _services(request)
    settings, sources, ready = services.settings, services.setting_sources, services.engine.ready
    rows = [
        SettingView(name, *value_and_source(settings, sources, name, ready), field.description or "")
        for name, field in Settings.model_fields.items()
    ]
    return rendered(SettingPage(rows))


@router.get("/doctor", responses=answers(DoctorPage))
async def get_doctor(request: Request) -> Response:
    """What `multiflora doctor` says of the server's machine, of the disk with its data and of each base model."""
    services = _services(request)
    rows = await asyncio.to_thread(lambda: [*checks(services.settings.data_dir), *_checks_of_bases(services.groups)])
    page = [DoctorRow(row["check"], row["state"] in ("ok", "info"), row["found"], row["advice"]) for row in rows]
    return rendered(DoctorPage(page))


def _checks_of_bases(groups: Groups) -> Iterator[dict[str, str]]:
    """Named after their base model where there are several."""
    for group in groups:
        ready, tokenizer = group.engine.ready, group.model.tokenizer
        sizes = [] if ready is None else [sizes_check(ready, ready.has_graphs)]
        for row in (*sizes, *template_checks(tokenizer.templates, tokenizer.template_findings)):
            yield row if len(groups) == 1 else {**row, "check": f"{row['check']} of {group.name}"}


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services
