"""How /v1/responses writes answers: one object, or a stream of numbered events that end with the whole object."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from multiflora_engine.protocol.requests import PositionLogprobs
from multiflora_platform.gateway.generation.admission import Admission
from multiflora_platform.gateway.generation.collect import Event
from multiflora_platform.gateway.generation.generation import Generation
from multiflora_platform.gateway.generation.logprobs import LogprobWriter
from multiflora_platform.gateway.generation.usage import usage
from multiflora_platform.gateway.responses_api.items import OutputItems
from multiflora_platform.gateway.responses_api.response import ResponseObject
from multiflora_platform.gateway.schemas.answers import ChatTokenLogprob, encode
from multiflora_platform.gateway.schemas.requests import ResponseRequest
from multiflora_platform.insight.views.misses import CacheExplanation
from multiflora_platform.messages.message import MessageFormat
from multiflora_platform.messages.pieces import Content, Piece
from multiflora_platform.text.best_answers import Answer
from multiflora_platform.text.tokenizer import Tokenizer
from multiflora_platform.web.openai_errors import ApiError


class ResponseWriter:
    """num_top: alternatives of each token; None when no log-probabilities are asked for. form: how to read answers."""

    done = b""

    def __init__(
        self,
        admission: Admission,
        body: ResponseRequest,
        num_top: int | None,
        form: MessageFormat,
        tokenizer: Tokenizer,
    ) -> None:
        self._response = ResponseObject(admission, body)
        self._output = OutputItems(admission.id)
        self._reader = form.reader()
        self._num_top = num_top
        self._logprobs = LogprobWriter(tokenizer)
        self._numbers = itertools.count()
        self.diagnostics: CacheExplanation | None = None
        """Of the prompt, where the request asks for it; `respond` has it filled before anything is written."""

    def complete(self, generations: Sequence[Generation], answers: Sequence[Sequence[Answer]]) -> dict[str, Any]:
        answer = answers[0][0]
        pieces = self._reader.push(answer.text) + self._reader.flush()
        self._add(pieces, self._written(answer.logprobs))
        self._output.finish(_status(answer.finish_reason))
        return self._ended(answer.finish_reason, generations)

    async def frames(
        self, generations: Sequence[Generation], events: AsyncGenerator[Event, None]
    ) -> AsyncGenerator[bytes, None]:
        finish_reason = None
        try:
            begun = self._response.begun()
            yield self._event("created", response=begun) + self._event("in_progress", response=begun)
            async for _, event in events:
                finish_reason = event.finish_reason
                pieces = self._reader.push(event.text)
                if finish_reason is not None:
                    pieces += self._reader.flush()
                told = self._add(pieces, self._written(event.logprobs))
                if told:
                    yield self._events(told)
            told = self._output.finish(_status(finish_reason))
            ended = self._ended(finish_reason, generations)
            yield self._events(told) + self._event(ended["status"], response=ended)
        finally:
            await events.aclose()

    def failed(self, error: ApiError) -> bytes:
        """Both that something went wrong and what has become of the response."""
        shown = {"code": error.code, "message": error.message}
        return self._event("error", **shown, param=error.param) + self._event(
            "failed", response=self._response.failed(**shown)
        )

    def _ended(self, finish_reason: str | None, generations: Sequence[Generation]) -> dict[str, Any]:
        ended = self._response.ended(finish_reason, self._output.items, usage(generations))
        return ended if self.diagnostics is None else {**ended, "prompt_cache_diagnostics": self.diagnostics}

    def _add(self, pieces: list[Piece], logprobs: list[ChatTokenLogprob]) -> list[tuple[str, dict[str, Any]]]:
        """Tokens whose text is held back still have log-probabilities: they go out with an empty text."""
        if logprobs and not pieces and (self._output.is_in_message or self._reader.is_plain):
            pieces = [Content("")]
        told = []
        for piece in pieces:
            told += self._output.add(piece, logprobs if isinstance(piece, Content) else [])
            logprobs = [] if isinstance(piece, Content) else logprobs
        return told

    def _written(self, positions: list[PositionLogprobs] | None) -> list[ChatTokenLogprob]:
        if self._num_top is None or positions is None:
            return []
        return self._logprobs.chat(positions, self._num_top).content

    def _events(self, events: list[tuple[str, dict[str, Any]]]) -> bytes:
        return b"".join(self._event(name, **fields) for name, fields in events)

    def _event(self, name: str, /, **fields: Any) -> bytes:
        kind = name if name == "error" else f"response.{name}"
        content = encode({"type": kind, "sequence_number": next(self._numbers), **fields})
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), content)


def _status(finish_reason: str | None) -> str:
    return "incomplete" if finish_reason == "length" else "completed"
