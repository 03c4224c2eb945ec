"""/api/v1/jobs: what is being made, how far it is, and how to stop it. A tenant sees the jobs of its own adapters."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response
from starlette.requests import Request

from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.registry.errors import JobNotFound
from multiflora_platform.registry.routes.access import registry_of, shown
from multiflora_platform.registry.schemas.answers import Job, JobPage
from multiflora_platform.web.pagination import decode_token, encode_token
from multiflora_platform.web.problems import InvalidRequest
from multiflora_platform.web.resources import answers, compressed, event_stream, resource

router = APIRouter(tags=["jobs"])
AnyKey = Annotated[Principal, Depends(require_key)]
State = Literal["queued", "running", "succeeded", "failed", "cancelled"]


@router.get("/jobs", responses=answers(JobPage), response_model=None)
async def list_jobs(
    request: Request,
    principal: AnyKey,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    page_token: str | None = None,
    state: State | None = None,
    adapter: str | None = None,
) -> Response:
    """Newest first."""
    after = _position(page_token) if page_token else None
    ids = _visible(request, principal, adapter)
    found = await registry_of(request).jobs.page(after, limit + 1, state, ids)
    more = len(found) > limit
    last = found[limit - 1] if more else None
    token = encode_token(f"{last['created_at']} {last['id']}") if last else None
    return await compressed(
        request, {"items": [shown(principal, job) for job in found[:limit]], "next_page_token": token}
    )


@router.get("/jobs/{job_id}", responses=answers(Job), response_model=None)
async def get_job(request: Request, principal: AnyKey, job_id: str) -> Response:
    """The job; its progress as it goes on when Accept asks for text/event-stream."""
    view = await _seen(request, principal, job_id)
    if "text/event-stream" not in request.headers.get("accept", ""):
        return resource(request, shown(principal, view))
    return event_stream(request, registry_of(request).jobs.follow(job_id))


@router.post("/jobs/{job_id}:cancel", responses=answers(Job), response_model=None)
async def cancel_job(request: Request, principal: AnyKey, job_id: str) -> Response:
    """Its version is rejected; 409 when the job has ended."""
    await _seen(request, principal, job_id)
    return resource(request, await registry_of(request).jobs.cancel(job_id, principal.actor))


async def _seen(request: Request, principal: Principal, job_id: str) -> dict[str, Any]:
    """Raises JobNotFound, also for another tenant's."""
    view = await registry_of(request).jobs.view(job_id)
    if not principal.is_admin:
        entry = registry_of(request).snapshot.adapters.get(view["adapter"])
        if entry is None or principal.tenant is None or entry.owner != principal.tenant:
            raise JobNotFound(f"There is no job {job_id[:40]!r}.")
    return view


def _visible(request: Request, principal: Principal, adapter: str | None) -> list[int] | None:
    """Ids of the adapters that jobs are shown of; None: of all, also of those that are deleted."""
    registry = registry_of(request)
    if principal.is_admin:
        return None if adapter is None else [registry.adapter(adapter).id]
    own = [entry for entry in registry.snapshot.adapters.values() if entry.owner == principal.tenant is not None]
    return [entry.id for entry in own if adapter in (None, entry.name)]


def _position(page_token: str) -> tuple[datetime, str]:
    at, _, job_id = decode_token(page_token).partition(" ")
    try:
        return datetime.fromisoformat(at).astimezone(UTC), job_id[:32]
    except (ValueError, OverflowError):
        raise InvalidRequest("page_token is not one that this server gave.", pointer="page_token") from None
