"""/v1/files: uploads for batches, and what batches wrote."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from fastapi import APIRouter, Depends, File, Form, Query, Request, UploadFile
from starlette.responses import Response, StreamingResponse

from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.batches.ledger import Order
from multiflora_platform.batches.service import BatchService, batches_of
from multiflora_platform.batches.stored_files import CHUNK
from multiflora_platform.batches.views import file_view, json_response, list_view
from multiflora_platform.storage.tables import StoredFileRow
from multiflora_platform.web.openai_errors import ApiError, invalid

router = APIRouter(tags=["batches"])


@router.post("/v1/files")
async def upload(
    request: Request,
    principal: Principal = Depends(require_key),
    file: UploadFile = File(),
    purpose: str = Form(),
) -> Response:
    """A JSONL file with a batch's requests."""
    if purpose != "batch":
        raise invalid("purpose", "purpose must be 'batch'; nothing else is served from files.")
    batches = batches_of(request)
    stored = await batches.files.add(file)
    row = await batches.ledger.add_file(principal, stored, file.filename or "upload.jsonl", purpose)
    return json_response(file_view(row))


@router.get("/v1/files")
async def list_files(
    request: Request,
    principal: Principal = Depends(require_key),
    purpose: str | None = None,
    after: str | None = None,
    limit: int = Query(10_000, ge=1, le=10_000),
    order: Order = "desc",
) -> Response:
    rows = await batches_of(request).ledger.files(principal, purpose, after, limit + 1, order)
    return json_response(list_view([file_view(row) for row in rows], limit))


@router.get("/v1/files/{file_id}")
async def show_file(request: Request, file_id: str, principal: Principal = Depends(require_key)) -> Response:
    return json_response(file_view(await require_file(batches_of(request), principal, file_id, "file_id")))


@router.get("/v1/files/{file_id}/content")
async def file_content(request: Request, file_id: str, principal: Principal = Depends(require_key)) -> Response:
    batches = batches_of(request)
    row = await require_file(batches, principal, file_id, "file_id")
    try:
        content = await batches.files.open(row.id, row.digest)
    except FileNotFoundError:
        raise ApiError(503, "file_unavailable", f"The bytes of {row.id} are on another server, or lost.") from None
    return StreamingResponse(_chunks(content), media_type="application/octet-stream")


@router.delete("/v1/files/{file_id}")
async def delete_file(request: Request, file_id: str, principal: Principal = Depends(require_key)) -> Response:
    batches = batches_of(request)
    row = await require_file(batches, principal, file_id, "file_id")
    if await batches.ledger.is_used(row.id):
        raise ApiError(409, "file_in_use", f"An unfinished batch reads {row.id}; cancel it first.", param="file_id")
    await batches.ledger.remove_file(principal, row.id)
    await batches.files.remove(row.id, row.digest)
    return json_response({"id": row.id, "object": "file", "deleted": True})


def _chunks(content: BinaryIO) -> Iterator[bytes]:
    with content:
        while piece := content.read(CHUNK):
            yield piece


async def require_file(batches: BatchService, principal: Principal, file_id: str, param: str) -> StoredFileRow:
    """Raises ApiError: what is not there, or not this principal's, is a 404."""
    row = await batches.ledger.file(principal, file_id)
    if row is None:
        raise ApiError(404, "not_found", f"There is no file {file_id[:80]!r}.", param=param)
    return row
