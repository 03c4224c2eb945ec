"""One prompt on its way through the engine: token deltas in, pieces of text out, for each of its answers.

Owns detokenizing, stop strings and the end of the stream; knows nothing of HTTP or of OpenAI's JSON.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence

import msgspec

from multiflora_engine.process.client import EngineUnavailable
from multiflora_engine.protocol.requests import GenerateRequest, PositionLogprobs, TokenDelta
from multiflora_platform.gateway.beams.search import BeamParams
from multiflora_platform.gateway.beams.stream import BeamStream
from multiflora_platform.observability.observers import NewTokens, Observer, PromptStart
from multiflora_platform.services import Services
from multiflora_platform.text.detokenizer import make_detokenizer
from multiflora_platform.text.stop_strings import StopStrings
from multiflora_platform.text.tokenizer import Tokenizer
from multiflora_platform.web.openai_errors import (
    ApiError,
    from_failure,
    internal_error,
    unavailable,
)

# The engine enforces deadlines itself; this is for an engine that has stopped answering.
_DEADLINE_GRACE = 0.25


class TextEvent(msgspec.Struct, gc=False):
    """What one delta adds to answer `index`. text may be empty: held back, or not yet a whole character.

    logprobs: one for each token id, when asked for. stop_reason: the stop string or stop token id that ended it.
    """

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[PositionLogprobs] | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None


class _Output:
    """The text side of one sequence."""

    def __init__(self, tokenizer: Tokenizer, request: GenerateRequest, index: int) -> None:
        params = request.params
        self._index = index
        self._detokenizer = make_detokenizer(
            tokenizer,
            request.prompt_token_ids,
            skip_special_tokens=params.skip_special_tokens,
            spaces_between_special_tokens=params.spaces_between_special_tokens,
        )
        self._stop = StopStrings(params.stop, params.include_stop_str_in_output)
        self._include_stop_token = params.include_stop_str_in_output
        self._min_tokens = params.min_tokens
        self._num_tokens = 0
        self._last_at: float | None = None

    def take(self, delta: TokenDelta) -> TextEvent:
        """The delta's tokens up to a stop string; a stop token's own text is left out unless stop strings are kept."""
        event = TextEvent(self._index, "", delta.token_ids, delta.logprobs, delta.finish_reason, delta.stop_reason)
        hidden = 1 if delta.finish_reason == "stop" and not self._include_stop_token else 0
        visible = len(delta.token_ids) - hidden
        for position, token_id in enumerate(delta.token_ids):
            self._num_tokens += 1
            piece = self._detokenizer.push(token_id) if position < visible else ""
            if self._scan(event, piece):
                return _cut(event, position + 1)
        if event.finish_reason is not None and not self._scan(event, self._detokenizer.flush()):
            event.text += self._stop.flush()
        return event

    def clock(self) -> tuple[float, float | None]:
        """(now, seconds since the call before)."""
        now, last = time.perf_counter(), self._last_at
        self._last_at = now
        return now, None if last is None else now - last

    def _scan(self, event: TextEvent, piece: str) -> bool:
        """Adds what may go out; True when a stop string ends the answer here."""
        text, stop = self._stop.push(piece, armed=self._num_tokens > self._min_tokens)
        event.text += text
        if stop is not None:
            event.finish_reason, event.stop_reason = "stop", stop
        return stop is not None


def _cut(event: TextEvent, num_tokens: int) -> TextEvent:
    event.token_ids = event.token_ids[:num_tokens]
    if event.logprobs is not None:
        event.logprobs = event.logprobs[:num_tokens]
    return event


class Generation:
    """One request to the engine, sent at once. prompt_logprobs, cached_tokens and embedding come with the first event.

    beams: its answers are found by beam search, and come all at the end.

    Raises ApiError when the engine is not there. `close` it in any case; closing before the end aborts it.
    """

    def __init__(
        self,
        services: Services,
        request: GenerateRequest,
        adapter: str | None,
        observers: Sequence[Observer],
        beams: BeamParams | None = None,
    ) -> None:
        engine = services.engine
        try:
            self._stream = engine.generate(request) if beams is None else BeamStream(engine, request, beams)
        except EngineUnavailable as error:
            raise unavailable(error.message, error.code) from None
        self.request = request
        self.adapter = adapter
        self.cached_tokens = 0
        self.completion_tokens = 0
        self.prompt_logprobs: list[PositionLogprobs | None] | None = None
        self.embedding: bytes | None = None
        self.has_started = False
        self._services = services
        self._observers = observers
        self._is_told = False
        self._outputs: dict[int, _Output | None] = {
            index: _Output(services.model.tokenizer, request, index) for index in range(request.params.num_sequences)
        }
        self._unfinished = len(self._outputs)
        self._failure: ApiError | None = None
        self._expiry = self._expire_later(request.deadline)
        services.active.add(self)

    async def events(self) -> AsyncGenerator[TextEvent, None]:
        """Until each answer has ended. Raises ApiError."""
        async for delta in self._stream:
            event = self._take(delta)
            if event is not None:
                yield event
            if not self._unfinished:
                break
        if self._unfinished:
            raise self._failure or internal_error()

    def fail(self, error: ApiError) -> None:
        """Ends it from outside: whoever reads the events gets the error."""
        if self._failure is None:
            self._failure = error
            self._tell_end("error", error)
        self._stream.close()

    def close(self) -> None:
        """Idempotent."""
        if self in self._services.active:
            self._services.active.discard(self)
            if self._expiry is not None:
                self._expiry.cancel()
            self._tell_end("abort")
            self._stream.close()

    def _take(self, delta: TokenDelta) -> TextEvent | None:
        if delta.failure is not None:
            self._failure = self._failure or from_failure(delta.failure)
            self._tell_end("error", self._failure)
            raise self._failure
        if not self.has_started:
            self.has_started = True
            self.cached_tokens = delta.cached_tokens
            start = PromptStart(delta.cached_tokens, delta.queued_seconds, delta.load_seconds, delta.miss_reason)
            for observer in self._observers:
                observer.started(start)
        if delta.prompt_logprobs is not None:
            self.prompt_logprobs = delta.prompt_logprobs
        if delta.embedding is not None:
            self.embedding = delta.embedding
        output = self._outputs[delta.index]
        if output is None:
            return None
        event = output.take(delta)
        self.completion_tokens += len(event.token_ids)
        new = NewTokens(delta.index, event.token_ids, delta.device_seconds, *output.clock())
        for observer in self._observers:
            observer.tokens(new)
        if event.finish_reason is not None:
            self._outputs[delta.index] = None
            self._unfinished -= 1
            if delta.finish_reason is None:
                self._stream.end(delta.index)  # a stop string, of which the engine knows nothing
            for observer in self._observers:
                observer.answered(delta.index, event.finish_reason)
            if not self._unfinished:
                self._tell_end("ok")
        return event

    def _tell_end(self, outcome: str, error: ApiError | None = None) -> None:
        if not self._is_told:
            self._is_told = True
            for observer in self._observers:
                observer.ended(outcome, error)

    def _expire_later(self, deadline: float | None) -> asyncio.TimerHandle | None:
        if deadline is None:
            return None
        delay = max(0.0, deadline - time.time()) + _DEADLINE_GRACE
        error = ApiError(504, "deadline_exceeded", "The request's deadline passed before the answer was complete.")
        return asyncio.get_running_loop().call_later(delay, self.fail, error)
