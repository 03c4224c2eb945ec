"""The last steps of a request: an answer that is written whole, or a stream that begins with its first event."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from multiflora_platform.gateway.generation.admission import Admission
from multiflora_platform.gateway.generation.collect import (
    Event,
    chain,
    collect_all,
    first_event,
    merge,
    until_disconnect,
)
from multiflora_platform.gateway.generation.event_stream import Endings, EventStream
from multiflora_platform.gateway.generation.generation import Generation
from multiflora_platform.gateway.schemas.answers import encode
from multiflora_platform.services import Services
from multiflora_platform.text.best_answers import Answer
from multiflora_platform.text.off_loop import off_loop


class Writer(Protocol):
    """One API's way of writing answers."""

    def complete(
        self, generations: Sequence[Generation], answers: Sequence[Sequence[Answer]]
    ) -> msgspec.Struct | dict[str, Any]: ...

    def frames(
        self, generations: Sequence[Generation], events: AsyncGenerator[Event, None]
    ) -> AsyncGenerator[bytes, None]: ...


async def respond(
    request: Request,
    admission: Admission,
    generations: Sequence[Generation],
    writer: Writer,
    stream: bool,
    endings: Endings | None = None,
    diagnose: Callable[[], Awaitable[None]] | None = None,
) -> Response:
    """A stream's status is decided by its first event, so that a full queue is a 429 and not a broken stream.

    diagnose: tells the writer more of the prompt, once that is computed and before anything is written.

    The caller closes the admission when this raises; otherwise it is closed here, or at the end of the stream.
    """
    services: Services = request.app.state.services
    headers, ids = version_headers(admission), [generation.request.id for generation in generations]
    if not stream:
        try:
            answers = await until_disconnect(request.receive, collect_all(generations))
            if diagnose is not None:
                await diagnose()
            size = sum(map(Generation.answer_size, generations))
            answer = await off_loop(size, partial(writer.complete, generations, answers))
            content = await off_loop(size, partial(encode, answer))
            headers |= services.answer_headers(admission.group, admission.principal, ids)
            return Response(content, media_type="application/json", headers=headers)
        finally:
            admission.close()
    events = merge(generations)
    first = await until_disconnect(request.receive, first_event(events))
    if diagnose is not None:
        await diagnose()
    sent = EventStream(writer.frames(generations, chain(first, events)), admission.close, endings)
    sent.headers.update(headers | services.answer_headers(admission.group, admission.principal, ids))
    return sent


def version_headers(admission: Admission) -> dict[str, str]:
    """Which version answered, whatever alias or split the client named: `sql@3`; the base model's own name for it."""
    resolved = admission.resolved
    label = f"{resolved.adapter}@{resolved.number}" if resolved.number else resolved.adapter or resolved.model
    return {"x-multiflora-version": quote(label, safe="@()/ ")}
