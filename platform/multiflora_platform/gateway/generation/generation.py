"""One prompt on its way through the engine: token deltas in, text out, for each of its answers; observers are told.

Owns the end of the stream; knows nothing of HTTP or of OpenAI's JSON, and not how the request was made.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field

from multiflora_engine.process.token_stream import TokenStream
from multiflora_engine.protocol.requests import GenerateRequest, PositionLogprobs, TokenDelta
from multiflora_platform.gateway.beams.stream import BeamStream
from multiflora_platform.gateway.generation.document_prefills import PrefillCost
from multiflora_platform.observability.observers import NewTokens, Observer, PromptStart
from multiflora_platform.text.assembler import TextAssembler, TextDelta
from multiflora_platform.text.tokenizer import Tokenizer
from multiflora_platform.web.openai_errors import ApiError, from_failure, internal_error

# What writing an answer without tokens takes, in tokens.
_ANSWER = 16


@dataclass(eq=False)
class Generation:
    """One request to the engine, which has been sent. `close` it in any case; before the end that aborts it."""

    request: GenerateRequest
    adapter: str | None
    """The registered name, None for the base: what metrics call it."""
    stream: TokenStream | BeamStream
    """A beam search's answers all come at the end."""
    tokenizer: Tokenizer
    observers: Sequence[Observer]
    marker_ids: frozenset[int] = frozenset()
    """Special tokens that stay in the text for its reader; `prepare_chat` finds them."""
    part_names: Mapping[str, str] = field(default_factory=dict)
    """Of a mix's parts: what the client called each digest."""
    before: PrefillCost | None = None
    """What was computed for it before it was sent."""

    # Of the prompt; the engine sends them with the first delta.
    has_started: bool = field(default=False, init=False)
    cached_tokens: int = field(default=0, init=False)
    cache_write_tokens: int = field(default=0, init=False)
    prompt_logprobs: list[PositionLogprobs | None] | None = field(default=None, init=False)
    embedding: bytes | None = field(default=None, init=False)
    # Grows with every delta, over all answers.
    completion_tokens: int = field(default=0, init=False)
    # Of the request's prediction, the tokens that were tried.
    accepted_prediction_tokens: int = field(default=0, init=False)
    rejected_prediction_tokens: int = field(default=0, init=False)

    _assemblers: dict[int, TextAssembler] = field(default_factory=dict, init=False)
    # When an answer's last tokens came, by its index; in the clock of `time.perf_counter`.
    _last_at: dict[int, float] = field(default_factory=dict, init=False)
    _finished: int = field(default=0, init=False)
    _failure: ApiError | None = field(default=None, init=False)
    _is_told: bool = field(default=False, init=False)

    def answer_size(self) -> int:
        """Of its answers as they are written, in tokens."""
        return _ANSWER + self.completion_tokens + len(self.prompt_logprobs or ())

    async def events(self) -> AsyncGenerator[TextDelta, None]:
        """Until each answer has ended. Raises ApiError."""
        try:
            async for delta in self.stream:
                text = self._take(delta)
                if text is not None:
                    yield text
                if self._is_complete:
                    break
            if not self._is_complete:
                raise self._failure or internal_error()
        finally:
            self.close()

    def fail(self, error: ApiError) -> None:
        """Ends it from outside: the reader of the events gets the error."""
        if self._failure is None:
            self._failure = error
            self._tell_end("error", error)
        self.stream.close()

    def close(self) -> None:
        """Idempotent."""
        self._tell_end("abort")
        self.stream.close()

    @property
    def _is_complete(self) -> bool:
        return self._finished == self.request.params.num_sequences

    def _take(self, delta: TokenDelta) -> TextDelta | None:
        if delta.failure is not None:
            self._failure = self._failure or from_failure(delta.failure, self.part_names)
            self._tell_end("error", self._failure)
            raise self._failure
        if self.before is not None and not self.has_started:
            delta = self.before.added_to(delta)
        self._note_prompt(delta)
        if delta.index not in self._assemblers:
            self._assemblers[delta.index] = TextAssembler(self.tokenizer, self.request, delta.index, self.marker_ids)
        assembler = self._assemblers[delta.index]
        if assembler.is_finished:
            return None  # the engine had computed it before it heard of the stop string
        text = assembler.take(delta)
        self.completion_tokens += len(text.token_ids)
        self.accepted_prediction_tokens += delta.accepted_prediction_tokens
        self.rejected_prediction_tokens += delta.rejected_prediction_tokens
        self._tell_tokens(text, delta.device_seconds)
        if text.finish_reason is not None:
            self._finish(delta, text.finish_reason)
        return text

    def _note_prompt(self, delta: TokenDelta) -> None:
        if not self.has_started:
            self.has_started = True
            computed = len(self.request.prompt_token_ids) - delta.cached_tokens
            # What was cached, evicted while the prompt was preempted and added again is told once.
            self.cached_tokens, self.cache_write_tokens = delta.cached_tokens, min(delta.cache_write_tokens, computed)
            start = PromptStart(
                self.cached_tokens,
                delta.queued_seconds,
                delta.load_seconds,
                delta.miss_reason,
                self.cache_write_tokens,
                delta.evicted_tokens,
                delta.device_seconds if delta.prompt_device_seconds is None else delta.prompt_device_seconds,
            )
            for observer in self.observers:
                observer.started(start)
        if delta.prompt_logprobs is not None:
            self.prompt_logprobs = delta.prompt_logprobs
        if delta.embedding is not None:
            self.embedding = delta.embedding

    def _tell_tokens(self, text: TextDelta, device_seconds: float) -> None:
        now, last = time.perf_counter(), self._last_at.get(text.index)
        self._last_at[text.index] = now
        waited = None if last is None else now - last
        new = NewTokens(text.index, text.token_ids, device_seconds, now, waited, text.text)
        for observer in self.observers:
            observer.tokens(new)

    def _finish(self, delta: TokenDelta, reason: str) -> None:
        self._finished += 1
        if delta.finish_reason is None:
            self.stream.end(delta.index)  # a stop string, of which the engine knows nothing
        for observer in self.observers:
            observer.answered(delta.index, reason)
        if self._is_complete:
            self._tell_end("ok")

    def _tell_end(self, outcome: str, error: ApiError | None = None) -> None:
        if not self._is_told:
            self._is_told = True
            for observer in self.observers:
                observer.ended(outcome, error)
