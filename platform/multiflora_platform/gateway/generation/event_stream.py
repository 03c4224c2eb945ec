"""Server-sent events as pre-encoded bytes, and how a stream of them ends."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from typing import Protocol

import msgspec
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from multiflora_platform.gateway.generation.collect import until_disconnect
from multiflora_platform.gateway.schemas.answers import encode
from multiflora_platform.web.openai_errors import ApiError, ClientGone, internal_error

_log = logging.getLogger(__name__)
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def frame(event: msgspec.Struct) -> bytes:
    return b"data: " + encode(event) + b"\n\n"


class Endings(Protocol):
    """How a stream ends: `done` after its last frame, or `failed` with what went wrong."""

    @property
    def done(self) -> bytes: ...

    def failed(self, error: ApiError) -> bytes: ...


class DoneOrError:
    """`[DONE]`, or an error frame."""

    done = b"data: [DONE]\n\n"

    def failed(self, error: ApiError) -> bytes:
        return b"data: " + encode(error.envelope()) + b"\n\n"


class EventStream(StreamingResponse):
    """Sends the frames, then their ending: also when they raise. close: called once, in any case.

    Starlette's own response leaves it to the garbage collector to end the generator of a client that went away.
    """

    def __init__(
        self, frames: AsyncGenerator[bytes, None], close: Callable[[], None], endings: Endings | None = None
    ) -> None:
        super().__init__(frames, headers=_HEADERS, media_type="text/event-stream")
        self._frames = frames
        self._close = close
        self._endings = endings or DoneOrError()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await until_disconnect(receive, self._send_all(send))
        except ClientGone:
            scope.setdefault("state", {})["client_gone"] = True
        finally:
            await self._frames.aclose()
            self._close()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for content in self._frames:
                await send({"type": "http.response.body", "body": content, "more_body": True})
            last = self._endings.done
        except ApiError as error:
            last = self._endings.failed(error)
        except Exception:
            _log.exception("A stream failed")
            last = self._endings.failed(internal_error())
        await send({"type": "http.response.body", "body": last, "more_body": False})
