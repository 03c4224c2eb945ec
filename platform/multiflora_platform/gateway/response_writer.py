"""How /v1/responses writes answers: one object, or a stream of numbered events that end with the whole object."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from multiflora_engine.request import PositionLogprobs
from multiflora_platform.gateway.admission import Admission
from multiflora_platform.gateway.answering import Event, usage
from multiflora_platform.gateway.answers import Answer
from multiflora_platform.gateway.errors import ApiError
from multiflora_platform.gateway.generation import Generation
from multiflora_platform.gateway.logprobs import LogprobWriter
from multiflora_platform.gateway.response_objects import ResponseObject, text_part
from multiflora_platform.gateway.response_requests import ResponseRequest
from multiflora_platform.gateway.responses import ChatTokenLogprob, encode


class ResponseWriter:
    """num_top: alternatives of each token; None when no log-probabilities are asked for."""

    done = b""

    def __init__(self, admission: Admission, body: ResponseRequest, num_top: int | None) -> None:
        self._response = ResponseObject(admission, body)
        self._num_top = num_top
        self._logprobs = LogprobWriter(admission.services.model.tokenizer)
        self._numbers = itertools.count()

    def complete(self, generations: Sequence[Generation], answers: Sequence[Sequence[Answer]]) -> dict[str, Any]:
        return self._ended(answers[0][0], generations)

    async def frames(
        self, generations: Sequence[Generation], events: AsyncGenerator[Event, None]
    ) -> AsyncGenerator[bytes, None]:
        answer = Answer(0)
        try:
            yield self._begin()
            async for _, event in events:
                answer.add(event)
                if event.text or event.logprobs:
                    yield self._delta(event.text, event.logprobs)
            yield self._end(answer, generations)
        finally:
            await events.aclose()

    def failed(self, error: ApiError) -> bytes:
        """Both that something went wrong and what has become of the response."""
        shown = {"code": error.code, "message": error.message}
        return self._event("error", **shown, param=error.param) + self._event(
            "response.failed", response=self._response.failed(**shown)
        )

    def _begin(self) -> bytes:
        begun = self._response.begun()
        return (
            self._event("response.created", response=begun)
            + self._event("response.in_progress", response=begun)
            + self._event("response.output_item.added", output_index=0, item=self._response.message("in_progress", []))
            + self._part_event("response.content_part.added", part=text_part("", []))
        )

    def _delta(self, text: str, positions: list[PositionLogprobs] | None) -> bytes:
        return self._part_event("response.output_text.delta", delta=text, logprobs=self._written(positions))

    def _end(self, answer: Answer, generations: Sequence[Generation]) -> bytes:
        ended = self._ended(answer, generations)
        item = ended["output"][0]
        part = item["content"][0]
        return (
            self._part_event("response.output_text.done", text=part["text"], logprobs=part["logprobs"])
            + self._part_event("response.content_part.done", part=part)
            + self._event("response.output_item.done", output_index=0, item=item)
            + self._event(f"response.{ended['status']}", response=ended)
        )

    def _ended(self, answer: Answer, generations: Sequence[Generation]) -> dict[str, Any]:
        part = text_part(answer.text, self._written(answer.logprobs))
        status = "incomplete" if answer.finish_reason == "length" else "completed"
        output = [self._response.message(status, [part])]
        return self._response.ended(answer.finish_reason, output, usage(generations))

    def _written(self, positions: list[PositionLogprobs] | None) -> list[ChatTokenLogprob]:
        if self._num_top is None or positions is None:
            return []
        return self._logprobs.chat(positions, self._num_top).content

    def _part_event(self, name: str, **fields: Any) -> bytes:
        return self._event(name, item_id=self._response.item_id, output_index=0, content_index=0, **fields)

    def _event(self, name: str, **fields: Any) -> bytes:
        content = encode({"type": name, "sequence_number": next(self._numbers), **fields})
        return b"event: %s\ndata: %s\n\n" % (name.encode(), content)
