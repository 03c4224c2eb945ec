"""What completions and chat completions do alike: run the prompts, answer whole or as a stream, count the tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from multiflora_platform.gateway.generation.admission import Admission
from multiflora_platform.gateway.generation.collect import Answer, collect_all, merge
from multiflora_platform.gateway.generation.event_stream import Endings, EventStream, until_disconnect
from multiflora_platform.gateway.generation.generation import Generation, TextEvent
from multiflora_platform.gateway.schemas.answers import PromptTokensDetails, Usage, encode
from multiflora_platform.gateway.schemas.requests import GenerationRequest
from multiflora_platform.web.openai_errors import internal_error, invalid

Event = tuple[int, TextEvent]


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
) -> Response:
    """A stream's status is decided by its first event, so that a full queue is a 429 and not a broken stream.

    The caller closes the admission when this raises; otherwise it is closed here, or at the end of the stream.
    """
    if not stream:
        answers = await until_disconnect(request, collect_all(generations))
        admission.close()
        return Response(encode(writer.complete(generations, answers)), media_type="application/json")
    events = merge(generations)
    first = await until_disconnect(request, _first(events))
    return EventStream(writer.frames(generations, _chain(first, events)), admission.close, endings)


def check_streaming(body: GenerationRequest) -> None:
    """Raises ApiError for what only a whole answer can give."""
    if body.stream and body.best_of is not None and body.best_of > (body.n or 1):
        raise invalid("best_of", "best_of above n cannot be streamed; the best answer is known only at the end.")
    if body.stream and body.prompt_logprobs is not None:
        raise invalid("prompt_logprobs", "prompt_logprobs cannot be streamed; set stream to false.")


def usage(generations: Sequence[Generation]) -> Usage:
    """Summed over the prompts; every generated token counts, those of candidates that best_of drops, too."""
    prompt = sum(len(generation.request.prompt_token_ids) for generation in generations)
    completion = sum(generation.completion_tokens for generation in generations)
    cached = sum(generation.cached_tokens for generation in generations)
    return Usage(prompt, completion, prompt + completion, PromptTokensDetails(cached))


def wants_usage(body: GenerationRequest) -> tuple[bool, bool]:
    """(a usage chunk at the end, usage in every chunk)."""
    options = body.stream_options
    if options is None:
        return False, False
    return bool(options.include_usage), bool(options.include_usage and options.continuous_usage_stats)


async def _first(events: AsyncGenerator[Event, None]) -> Event:
    try:
        return await anext(events)
    except StopAsyncIteration:
        raise internal_error() from None


async def _chain(first: Event, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    try:
        yield first
        async for event in events:
            yield event
    finally:
        await events.aclose()
