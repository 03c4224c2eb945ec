"""Files and batches as OpenAI shows them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from starlette.responses import Response

from multiflora_platform.storage.tables import BatchRow, StoredFileRow

_MOMENTS = (
    "created_at",
    "in_progress_at",
    "expires_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)


def file_view(row: StoredFileRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.size,
        "created_at": _seconds(row.created_at),
        "filename": row.name,
        "purpose": row.purpose,
        "status": "processed",
    }


def batch_view(row: BatchRow, counts: tuple[int, int]) -> dict[str, Any]:
    """counts: (completed, failed) as of this moment."""
    return {
        "id": row.id,
        "object": "batch",
        "endpoint": row.endpoint,
        "errors": {"object": "list", "data": row.errors} if row.errors else None,
        "input_file_id": row.input_file_id,
        "completion_window": "24h",
        "status": row.status,
        "output_file_id": row.output_file_id,
        "error_file_id": row.error_file_id,
        **{name: _seconds(getattr(row, name)) for name in _MOMENTS},
        "request_counts": {"total": row.total, "completed": counts[0], "failed": counts[1]},
        "metadata": row.note or None,
    }


def list_view(items: Sequence[dict[str, Any]], limit: int) -> dict[str, Any]:
    """items: up to one more than `limit`, which says that there is more."""
    page = items[:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(items) > limit,
    }


def json_response(content: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
