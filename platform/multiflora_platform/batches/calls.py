"""/v1/batches: made, shown, listed, cancelled."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.batches.claims import UNFINISHED
from multiflora_platform.batches.files import require_file
from multiflora_platform.batches.service import BatchService, batches_of
from multiflora_platform.batches.views import batch_view, json_response, list_view
from multiflora_platform.gateway.in_process import ENDPOINTS
from multiflora_platform.gateway.schemas.decoding import body_schema, read_body
from multiflora_platform.gateway.schemas.requests import BatchRequest
from multiflora_platform.storage.tables import BatchRow
from multiflora_platform.web.openai_errors import ApiError, invalid

router = APIRouter(tags=["batches"])
_MAX_METADATA = 16


@router.post("/v1/batches", openapi_extra=body_schema(BatchRequest))
async def create_batch(request: Request, principal: Principal = Depends(require_key)) -> Response:
    """Answer every line of a file, behind all requests that somebody waits for."""
    batches = batches_of(request)
    body = await read_body(request, BatchRequest)
    if body.endpoint not in ENDPOINTS:
        raise invalid("endpoint", f"endpoint must be one of {', '.join(ENDPOINTS)}.")
    if body.completion_window != "24h":
        raise invalid("completion_window", "completion_window must be '24h'.")
    if len(body.metadata or {}) > _MAX_METADATA:
        raise invalid("metadata", f"metadata holds at most {_MAX_METADATA} entries.")
    await require_file(batches, principal, body.input_file_id, "input_file_id")
    row = await batches.ledger.add_batch(principal, body.endpoint, body.input_file_id, body.metadata or {})
    batches.runner.kick()
    return _shown(batches, row)


@router.get("/v1/batches")
async def list_batches(
    request: Request,
    principal: Principal = Depends(require_key),
    after: str | None = None,
    limit: int = Query(20, ge=1, le=100),
) -> Response:
    batches = batches_of(request)
    rows = await batches.ledger.batches(principal, after, limit + 1)
    return json_response(list_view([batch_view(row, batches.runner.counts(row)) for row in rows], limit))


@router.get("/v1/batches/{batch_id}")
async def show_batch(request: Request, batch_id: str, principal: Principal = Depends(require_key)) -> Response:
    batches = batches_of(request)
    return _shown(batches, await _require(batches, principal, batch_id))


@router.post("/v1/batches/{batch_id}/cancel")
async def cancel_batch(request: Request, batch_id: str, principal: Principal = Depends(require_key)) -> Response:
    """What is answered stays; the rest is not begun. A batch that has ended stays as it is."""
    batches = batches_of(request)
    row = await _require(batches, principal, batch_id)
    if row.status in UNFINISHED:
        await batches.ledger.cancel(principal.actor, batch_id)
        batches.runner.cancel(batch_id)
    return _shown(batches, await _require(batches, principal, batch_id))


async def _require(batches: BatchService, principal: Principal, batch_id: str) -> BatchRow:
    row = await batches.ledger.batch(principal, batch_id)
    if row is None:
        raise ApiError(404, "not_found", f"There is no batch {batch_id[:80]!r}.", param="batch_id")
    return row


def _shown(batches: BatchService, row: BatchRow) -> Response:
    return json_response(batch_view(row, batches.runner.counts(row)))
