"""Turns the token deltas of one request into text: detokenized, cut at stop strings, whole or piece by piece.

Knows neither the engine nor other requests.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from multiflora.outputs import CompletionOutput, RequestOutput
from multiflora_engine.protocol.requests import (
    FinishReason,
    GenerateRequest,
    PositionLogprobs,
    SamplingParams,
    TokenDelta,
)
from multiflora_platform.text.detokenizer import make_detokenizer
from multiflora_platform.text.stop_strings import StopStrings
from multiflora_platform.text.tokenizer import Tokenizer


@dataclass
class _Piece:
    """Of one continuation: everything, or what came since the last time somebody looked."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[PositionLogprobs] = field(default_factory=list)


class _Continuation:
    def __init__(self, index: int, request: GenerateRequest, with_logprobs: bool, tokenizer: Tokenizer) -> None:
        self.finish_reason: FinishReason | None = None
        self.whole, self._news = _Piece(), _Piece()
        self.has_news = False
        self._index = index
        self._with_logprobs = with_logprobs
        self._params = request.params
        self._stop_reason: str | int | None = None
        self._error: str | None = None
        self._stops = StopStrings(request.params.stop, request.params.include_stop_str_in_output)
        self._detokenizer = make_detokenizer(
            tokenizer,
            request.prompt_token_ids,
            skip_special_tokens=request.params.skip_special_tokens,
            spaces_between_special_tokens=request.params.spaces_between_special_tokens,
        )

    def push(self, delta: TokenDelta) -> None:
        if self.finish_reason is not None:
            return  # a stop string has ended it already; the engine does not know
        self.has_news = True
        last = len(delta.token_ids) - 1 if delta.finish_reason == "stop" else -1
        for place, token in enumerate(delta.token_ids):
            self._add_token(token, delta.logprobs[place] if delta.logprobs is not None else None)
            # The token that ended it is no text, unless it was asked for.
            if place != last or self._params.include_stop_str_in_output:
                self._add_text(self._detokenizer.push(token) if self._params.detokenize else "")
            if self.finish_reason is not None:
                return
        if delta.finish_reason is not None:
            self._finish(delta)

    def output(self, piece: _Piece) -> CompletionOutput:
        asked = self._with_logprobs
        return CompletionOutput(
            index=self._index,
            text=piece.text,
            token_ids=piece.token_ids,
            cumulative_logprob=self.cumulative_logprob if asked else None,
            logprobs=piece.logprobs if asked else None,
            finish_reason=self.finish_reason,
            stop_reason=self._stop_reason,
            error=self._error,
        )

    def take(self) -> CompletionOutput:
        """What is new since the last call."""
        output, self._news, self.has_news = self.output(self._news), _Piece(), False
        return output

    @property
    def cumulative_logprob(self) -> float:
        return sum(position.chosen.logprob for position in self.whole.logprobs)

    def _add_token(self, token: int, logprobs: PositionLogprobs | None) -> None:
        for piece in (self.whole, self._news):
            piece.token_ids.append(token)
            if logprobs is not None:
                piece.logprobs.append(logprobs)

    def _add_text(self, text: str) -> None:
        text, stop = self._stops.push(text, armed=len(self.whole.token_ids) > self._params.min_tokens)
        self._write(text)
        if stop is not None:
            self.finish_reason, self._stop_reason = "stop", stop

    def _finish(self, delta: TokenDelta) -> None:
        if self._params.detokenize:
            self._add_text(self._detokenizer.flush())
            self._write(self._stops.flush())
        if self.finish_reason is None:
            self.finish_reason, self._stop_reason = delta.finish_reason, delta.stop_reason
            self._error = delta.failure.message if delta.failure is not None else None

    def _write(self, text: str) -> None:
        self.whole.text += text
        self._news.text += text


class Collector:
    """One request's continuations as they come.

    asked: the caller's parameters; those of the request may add logprobs, which best_of needs for its choice.
    """

    def __init__(
        self,
        request: GenerateRequest,
        asked: SamplingParams,
        prompt: str | None,
        adapter: str | None,
        tokenizer: Tokenizer,
    ) -> None:
        self.request = request
        self._asked = asked
        self._prompt = prompt
        self._adapter = adapter
        self._cached_tokens = 0
        self._prompt_logprobs: list[PositionLogprobs | None] | None = None
        self._continuations = [
            _Continuation(index, request, asked.logprobs is not None, tokenizer)
            for index in range(request.params.num_sequences)
        ]

    def push(self, delta: TokenDelta) -> bool:
        """True when this ended the continuation although the engine would go on: a stop string came."""
        self._cached_tokens = max(self._cached_tokens, delta.cached_tokens)
        if delta.prompt_logprobs is not None:
            self._prompt_logprobs = delta.prompt_logprobs
        continuation = self._continuations[delta.index]
        continuation.push(delta)
        return continuation.finish_reason is not None and delta.finish_reason is None

    @property
    def finished(self) -> bool:
        return all(continuation.finish_reason is not None for continuation in self._continuations)

    @property
    def num_returned(self) -> int:
        return self._asked.n

    @property
    def num_tokens(self) -> int:
        return sum(len(continuation.whole.token_ids) for continuation in self._continuations)

    def output(self) -> RequestOutput:
        """Everything so far; of best_of candidates the n most likely, best first."""
        chosen = self._continuations
        if len(chosen) > self._asked.n:
            chosen = sorted(chosen, key=lambda continuation: -continuation.cumulative_logprob)[: self._asked.n]
        outputs = [replace(continuation.output(continuation.whole), index=i) for i, continuation in enumerate(chosen)]
        return self._wrap(outputs)

    def news(self) -> RequestOutput | None:
        """What has come since the last call, if anything has."""
        outputs = [continuation.take() for continuation in self._continuations if continuation.has_news]
        return self._wrap(outputs) if outputs else None

    def _wrap(self, outputs: list[CompletionOutput]) -> RequestOutput:
        return RequestOutput(
            request_id=self.request.id,
            prompt=self._prompt,
            prompt_token_ids=self.request.prompt_token_ids,
            outputs=outputs,
            finished=self.finished,
            cached_tokens=self._cached_tokens,
            adapter=self._adapter,
            prompt_logprobs=self._prompt_logprobs,
        )
