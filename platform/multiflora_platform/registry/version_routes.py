"""/api/v1/adapters/{name}/versions: uploads, sources, what became of them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import JSONResponse, Response
from starlette.requests import Request

from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.registry.answers import answers
from multiflora_platform.registry.bodies import VersionSource, content_type, is_json, read_json, schema
from multiflora_platform.registry.errors import InvalidRequest
from multiflora_platform.registry.listing import decode_token, encode_token
from multiflora_platform.registry.requests import changeable, promotable, readable, registry_of, version_number
from multiflora_platform.registry.views import ValidationReport, Version, VersionPage

router = APIRouter(tags=["versions"])
AnyKey = Annotated[Principal, Depends(require_key)]
_UPLOAD = schema(VersionSource)
_UPLOAD["requestBody"]["content"]["multipart/form-data"] = {
    "schema": {
        "type": "object",
        "description": "the adapter's two files, or one .tar.gz/.tgz/.tar/.zip; file names decide",
        "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
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
) -> Response:
    """201 a new version, 200 one that is known already, 422 rejected with its `rows`."""
    (promotable if promote else changeable)(request, principal, name)
    versions = registry_of(request).versions
    if is_json(request):
        source = (await read_json(request, VersionSource)).source
        outcome = await versions.add_source(name, source, principal.actor, promote=promote, key=idempotency_key)
    else:
        outcome = await versions.add_upload(
            name,
            content_type(request),
            request.headers.get("content-length"),
            request.stream(),
            principal.actor,
            promote=promote,
            key=idempotency_key,
        )
    location = f"/api/v1/adapters/{name}/versions/{outcome.body['version']}"
    return JSONResponse(outcome.body, outcome.status, headers={"Location": location})


@router.get("/adapters/{name}/versions", responses=answers(VersionPage), response_model=None)
async def list_versions(
    request: Request,
    principal: AnyKey,
    name: str,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    page_token: str | None = None,
) -> dict[str, Any]:
    """Newest first."""
    readable(request, principal, name)
    before = decode_token(page_token) if page_token else str(2**31 - 1)
    if not (before.isascii() and before.isdecimal() and len(before) <= 10):
        raise InvalidRequest("page_token is not one that this server gave.", pointer="page_token")
    found = await registry_of(request).versions.page(name, int(before), limit + 1)
    more = len(found) > limit
    return {"items": found[:limit], "next_page_token": encode_token(str(found[limit - 1]["version"])) if more else None}


@router.get("/adapters/{name}/versions/{number}", responses=answers(Version), response_model=None)
async def get_version(request: Request, principal: AnyKey, name: str, number: str) -> dict[str, Any]:
    readable(request, principal, name)
    return await registry_of(request).versions.version(name, version_number(number, name))


@router.get("/adapters/{name}/versions/{number}/validation", responses=answers(ValidationReport), response_model=None)
async def get_validation(request: Request, principal: AnyKey, name: str, number: str) -> dict[str, Any]:
    """What the checks said, row by row."""
    readable(request, principal, name)
    return await registry_of(request).versions.report(name, version_number(number, name))
