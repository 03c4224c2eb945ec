"""/api/v1/adapters/{name}/versions and /api/v1/versions: uploads, sources, what became of them, their end."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import Response, StreamingResponse
from starlette.requests import Request

from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.registry.intake.submissions import VersionRequest
from multiflora_platform.registry.routes.access import (
    changeable,
    promotable,
    readable,
    registry_of,
    shown,
    version_number,
    visible_adapters,
)
from multiflora_platform.registry.routes.text_owners import refuse_others_texts
from multiflora_platform.registry.rows.version_queries import VersionQuery
from multiflora_platform.registry.schemas.answers import (
    Card,
    ValidationReport,
    Version,
    VersionPage,
)
from multiflora_platform.registry.schemas.bodies import VersionSource
from multiflora_platform.registry.schemas.version_metadata import VersionPatch
from multiflora_platform.storage.tables import STATES
from multiflora_platform.web.json_bodies import content_type, is_json, read_json, schema
from multiflora_platform.web.pagination import decode_token, encode_token
from multiflora_platform.web.problems import InvalidRequest
from multiflora_platform.web.request_headers import Unchanged, preferred_wait
from multiflora_platform.web.resources import answers, compressed, resource

router = APIRouter(tags=["versions"])
AnyKey = Annotated[Principal, Depends(require_key)]
Limit = Annotated[int, Query(ge=1, le=1000)]
State = Literal["pending", "fetching", "validating", "ready", "rejected", "archived"]
assert State.__args__ == STATES  # type: ignore[attr-defined]


def version_query(
    q: str | None = None,
    tag: str | None = None,
    state: State | None = None,
    dataset: str | None = None,
    training_run: str | None = None,
    parent: str | None = None,
    digest: str | None = None,
    deleted: bool = False,
) -> VersionQuery:
    """What both lists of versions can be narrowed by."""
    return VersionQuery(None, state, digest, q, tag, dataset, training_run, parent, deleted)


Wanted = Annotated[VersionQuery, Depends(version_query)]
_UPLOAD = schema(VersionSource)
_UPLOAD["requestBody"]["content"]["multipart/form-data"] = {
    "schema": {
        "type": "object",
        "description": "the adapter's two files and a README.md, or one .tar.gz/.tgz/.tar/.zip; file names decide",
        "properties": {
            "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
            "metadata": {"type": "string", "description": "JSON: description, tags, lineage, evals, metrics"},
        },
    }
}


@router.post(
    "/adapters/{name}/versions",
    status_code=201,
    openapi_extra=_UPLOAD,
    responses=answers(Version, 200, 201),
    response_model=None,
)
async def add_version(
    request: Request,
    principal: AnyKey,
    name: str,
    promote: bool = False,
    idempotency_key: Annotated[str | None, Header()] = None,
    prefer: Annotated[str | None, Header()] = None,
) -> Response:
    """201 a new version, 200 one that is known already, 422 rejected with its `rows`.

    202 with a `job` to poll where it takes long: sources that are fetched over the network, large archives, and
    `Prefer: respond-async`. `Prefer: wait=SECONDS` waits so long for the answer.
    """
    entry = (promotable if promote else changeable)(request, principal, name)
    intake = registry_of(request).intake
    vet = refuse_others_texts(request, principal, entry, public=True)
    wanted = VersionRequest(name, principal.actor, promote, idempotency_key, vet=vet, wait=preferred_wait(prefer))
    if is_json(request):
        body = await read_json(request, VersionSource)
        answer = await intake.add_source(replace(wanted, details=body.details), body.source)
    else:
        length = request.headers.get("content-length")
        answer = await intake.add_upload(wanted, content_type(request), length, request.stream())
    location = f"/api/v1/adapters/{name}/versions/{answer.body['version']}"
    return resource(request, answer.body, answer.status, {"Location": location})


@router.get("/adapters/{name}/versions", responses=answers(VersionPage), response_model=None)
async def list_versions(
    request: Request,
    principal: AnyKey,
    name: str,
    wanted: Wanted,
    limit: Limit = 50,
    page_token: str | None = None,
) -> Response:
    """Newest first. `deleted` shows those, too, that can be restored."""
    readable(request, principal, name)
    return await _page(request, principal, wanted, name, limit, page_token)


@router.get("/versions", responses=answers(VersionPage), response_model=None)
async def search_versions(
    request: Request,
    principal: AnyKey,
    wanted: Wanted,
    limit: Limit = 50,
    page_token: str | None = None,
) -> Response:
    """Of all adapters, newest first: which versions were trained on this data, by this run, have this digest?"""
    wanted = replace(wanted, adapter_ids=visible_adapters(request, principal))
    return await _page(request, principal, wanted, None, limit, page_token)


@router.get("/adapters/{name}/versions/{number}", responses=answers(Version), response_model=None)
async def get_version(request: Request, principal: AnyKey, name: str, number: str) -> Response:
    readable(request, principal, name)
    view = await registry_of(request).versions.view(name, version_number(number, name))
    return resource(request, shown(principal, view))


@router.patch(
    "/adapters/{name}/versions/{number}",
    openapi_extra=schema(VersionPatch),
    responses=answers(Version),
    response_model=None,
)
async def change_version(request: Request, principal: AnyKey, name: str, number: str, expected: Unchanged) -> Response:
    """Description, tags, lineage; the content of a version never changes."""
    changeable(request, principal, name)
    patch = (await read_json(request, VersionPatch)).check()
    changes, wanted = registry_of(request).versions, version_number(number, name)
    return resource(request, await changes.amend(name, wanted, patch, expected, principal.actor))


@router.delete("/adapters/{name}/versions/{number}", responses=answers(Version), response_model=None)
async def delete_version(request: Request, principal: AnyKey, name: str, number: str, expected: Unchanged) -> Response:
    """Archived until it is restored or purged; 409 while an alias points to it. Running requests finish."""
    changeable(request, principal, name)
    changes, wanted = registry_of(request).versions, version_number(number, name)
    return resource(request, await changes.delete(name, wanted, expected, principal.actor))


@router.post("/adapters/{name}/versions/{number}:restore", responses=answers(Version), response_model=None)
async def restore_version(request: Request, principal: AnyKey, name: str, number: str, expected: Unchanged) -> Response:
    """Undo its deletion."""
    changeable(request, principal, name)
    changes, wanted = registry_of(request).versions, version_number(number, name)
    return resource(request, await changes.restore(name, wanted, expected, principal.actor))


@router.post("/adapters/{name}/versions/{number}:purge", status_code=204)
async def purge_version(request: Request, principal: AnyKey, name: str, number: str, expected: Unchanged) -> Response:
    """Remove a deleted version for good, and its artifact unless another version has the same content."""
    changeable(request, principal, name)
    await registry_of(request).versions.purge(name, version_number(number, name), expected, principal.actor)
    return Response(status_code=204)


@router.get("/adapters/{name}/versions/{number}/validation", responses=answers(ValidationReport), response_model=None)
async def get_validation(request: Request, principal: AnyKey, name: str, number: str) -> Response:
    """What the checks said, row by row, and what the evals answered."""
    readable(request, principal, name)
    return resource(request, await registry_of(request).versions.report(name, version_number(number, name)))


@router.get("/adapters/{name}/versions/{number}/card", responses=answers(Card), response_model=None)
async def get_card(request: Request, principal: AnyKey, name: str, number: str) -> Response:
    """The model card: README.md as markdown, as sanitised HTML, and its front matter."""
    readable(request, principal, name)
    return resource(request, await registry_of(request).versions.card(name, version_number(number, name)))


@router.get("/adapters/{name}/versions/{number}/archive", include_in_schema=False)
async def download_version(request: Request, principal: AnyKey, name: str, number: str) -> StreamingResponse:
    """Its files byte for byte, and its model card, as one tar archive; for those who may change the adapter."""
    changeable(request, principal, name)
    version = version_number(number, name)
    parts = await registry_of(request).versions.archive(name, version)
    headers = {"Content-Disposition": f'attachment; filename="{name}-{version}.tar"'}
    return StreamingResponse(parts, media_type="application/x-tar", headers=headers)


async def _page(
    request: Request, principal: Principal, wanted: VersionQuery, name: str | None, limit: int, page_token: str | None
) -> Response:
    before = decode_token(page_token) if page_token else None
    if before is not None and not (before.isascii() and before.isdecimal() and len(before) <= 10):
        raise InvalidRequest("page_token is not one that this server gave.", pointer="page_token")
    last = min(int(before), 2**31 - 1) if before else None
    items, rest = await registry_of(request).versions.search(wanted, name, last, limit)
    token = None if rest is None else encode_token(str(rest))
    return await compressed(request, {"items": [shown(principal, item) for item in items], "next_page_token": token})
