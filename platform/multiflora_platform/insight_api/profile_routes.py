"""/api/v1/profile: what an engine or the gateway is doing, recorded for some seconds. Admins only."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path
from fastapi.responses import Response
from starlette.requests import Request

from multiflora_platform.auth.dependencies import require_admin
from multiflora_platform.insight.bodies import NewProfile
from multiflora_platform.insight.views.server import ProfilePage
from multiflora_platform.insight_api.engine_calls import reaching_engine
from multiflora_platform.insight_api.errors import ProfileNotFound, ProfileNotReady, ProfileRunning
from multiflora_platform.observability.profiles import AlreadyProfiling, Profile, Profiles
from multiflora_platform.web.json_bodies import read_json, schema
from multiflora_platform.web.problems import InvalidRequest
from multiflora_platform.web.resources import answers, rendered

router = APIRouter(tags=["insight"], dependencies=[Depends(require_admin)])
Id = Annotated[str, Path(max_length=64)]
_LONGEST_TORCH = 60.0
_TYPES = {"torch": "application/gzip", "python": "text/plain; charset=utf-8", "memory": "text/plain; charset=utf-8"}


@router.post("/profile", status_code=202, responses=answers(Profile, 202), openapi_extra=schema(NewProfile))
async def start_profile(request: Request) -> Response:
    """Begins to record; requests go on meanwhile. One at a time: 409 `profile-running` while another one is."""
    body = await read_json(request, NewProfile)
    if body.kind == "torch" and body.process == "gateway":
        raise InvalidRequest("The gateway runs no operations of torch; profile an engine.", pointer="/process")
    if body.kind == "torch" and body.seconds > _LONGEST_TORCH:
        raise InvalidRequest(f"A profile of kind torch takes {_LONGEST_TORCH:.0f} seconds at most.", pointer="/seconds")
    if body.process == "gateway" and body.replica is not None:
        raise InvalidRequest("A replica is an engine; leave it out to profile the gateway.", pointer="/replica")
    try:
        with reaching_engine():
            profile = _profiles(request).start(body.kind, body.seconds, body.process, body.replica)
    except AlreadyProfiling as error:
        raise ProfileRunning(str(error)) from None
    return rendered(profile, 202, {"Location": f"/api/v1/profile/{profile.id}"})


@router.get("/profile", responses=answers(ProfilePage))
async def list_profiles(request: Request) -> Response:
    """The last ones, the newest first."""
    return rendered(ProfilePage(_profiles(request).all()))


@router.get("/profile/{id}", responses=answers(Profile))
async def get_profile(request: Request, id: Id) -> Response:
    """One profile: whether it is done."""
    return rendered(_find(request, id))


@router.get("/profile/{id}/trace", include_in_schema=False)
async def download_trace(request: Request, id: Id) -> Response:
    """torch: a Chrome trace, gzip. python: folded stacks, as flame graphs take them. memory: a report."""
    profile, trace = _find(request, id), _profiles(request).trace(id)
    if trace is None:
        reason = profile.error or "It is still being recorded; ask again when its state is done."
        raise ProfileNotReady(f"The profile {id} has no trace. {reason}")
    headers = {"Content-Disposition": f'attachment; filename="{profile.file}"'}
    return Response(trace, 200, headers, _TYPES[profile.kind])


def _find(request: Request, id: str) -> Profile:
    """Raises ProfileNotFound."""
    profile = _profiles(request).find(id)
    if profile is None:
        raise ProfileNotFound(f"There is no profile {id!r}; the last ones are kept, until the server ends.")
    return profile


def _profiles(request: Request) -> Profiles:
    profiles: Profiles = request.app.state.services.insight.profiles
    return profiles
