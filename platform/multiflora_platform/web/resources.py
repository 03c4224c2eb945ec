"""What a route answers: a type, rendered as JSON and described in the OpenAPI document, or a stream of events."""

from __future__ import annotations

import asyncio
import gzip
import re
import zlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from multiflora_platform.web.etags import is_current

_WORTH_COMPRESSING, _LEVEL = 2048, 4
_GZIP_WINDOW = 31
_STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Vary": "Accept-Encoding"}
_GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))")
_encode = msgspec.json.Encoder().encode
_REFERENCE = "#/components/schemas/{name}"
# Those that routes give, by name; `answers` fills it as the routes are declared.
ANSWERS: dict[str, type[msgspec.Struct]] = {}


def resource(
    request: Request,
    view: msgspec.Struct | Mapping[str, Any],
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """One resource under its ETag, which the view holds as `etag`; 304 to a GET that has it already."""
    etag: str = view["etag"] if isinstance(view, Mapping) else view.etag  # type: ignore[attr-defined]
    headers = {"ETag": etag, "Cache-Control": "private, no-cache", **(headers or {})}
    known = request.headers.get("if-none-match") if request.method == "GET" else None
    if known is not None and is_current(known, etag):
        return Response(status_code=304, headers=headers)
    return Response(_encode(view), status, headers, "application/json")


def rendered(answer: msgspec.Struct, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(_encode(answer), status, dict(headers) if headers else None, "application/json")


async def compressed(request: Request, answer: msgspec.Struct | Mapping[str, Any]) -> Response:
    """For long lists: gzipped, beside the event loop, where the client takes that."""
    body, headers = _encode(answer), {"Vary": "Accept-Encoding"}
    if len(body) >= _WORTH_COMPRESSING and _takes_gzip(request):
        body = await asyncio.to_thread(gzip.compress, body, _LEVEL, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Response(body, 200, headers, "application/json")


def _takes_gzip(request: Request) -> bool:
    return _GZIP.search(request.headers.get("accept-encoding", "")) is not None


def event_stream(request: Request, frames: AsyncIterator[bytes]) -> StreamingResponse:
    """frames: of text/event-stream, followed for long; compressed each as it comes, where the client takes that."""
    headers = dict(_STREAM_HEADERS)
    if _takes_gzip(request):
        frames, headers["Content-Encoding"] = _gzipped(frames), "gzip"
    return StreamingResponse(frames, media_type="text/event-stream", headers=headers)


async def _gzipped(frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """What one frame shares with those before it is sent once; each can be read when it has come."""
    stream = zlib.compressobj(_LEVEL, wbits=_GZIP_WINDOW)
    async for frame in frames:
        yield stream.compress(frame) + stream.flush(zlib.Z_SYNC_FLUSH)
    yield stream.flush()


def answers(kind: type[msgspec.Struct], *statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that answers with this type, by default with status 200."""
    ANSWERS[kind.__name__] = kind
    schema = {"$ref": _REFERENCE.format(name=kind.__name__)}
    content = {"application/json": {"schema": schema}}
    described: dict[str, Any] = {"description": "Success", "content": content}
    if "etag" in kind.__struct_fields__:
        described["headers"] = {"ETag": {"description": "as `etag`, for If-Match", "schema": {"type": "string"}}}
    return dict.fromkeys(statuses or (200,), described)


def answer_schemas() -> dict[str, Any]:
    """Components for the OpenAPI document: of all types that routes have named."""
    return msgspec.json.schema_components(ANSWERS.values(), ref_template=_REFERENCE)[1]
