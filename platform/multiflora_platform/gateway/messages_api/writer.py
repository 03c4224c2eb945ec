"""How /v1/messages writes answers: one message, or Anthropic's events from message_start to message_stop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from multiflora_platform.gateway.generation.collect import Event
from multiflora_platform.gateway.generation.generation import Generation
from multiflora_platform.gateway.generation.usage import usage
from multiflora_platform.gateway.messages_api.content import MessageContent
from multiflora_platform.gateway.schemas.answers import encode
from multiflora_platform.insight.views.misses import CacheExplanation
from multiflora_platform.messages.message import MessageFormat
from multiflora_platform.text.assembler import TextDelta
from multiflora_platform.text.best_answers import Answer
from multiflora_platform.web.anthropic_errors import envelope
from multiflora_platform.web.openai_errors import ApiError


class MessageWriter:
    """id: the message's. form: how to read answers. request_id: of the HTTP request, for errors within a stream.
    hour_tokens: of the prompt, those before its last mark of an hour."""

    done = b""

    def __init__(
        self,
        id: str,
        model: str,
        form: MessageFormat,
        content: MessageContent,
        request_id: str | None,
        hour_tokens: int = 0,
    ) -> None:
        self._head = {"id": id, "type": "message", "role": "assistant", "model": model}
        self._reader = form.reader()
        self._content = content
        self._request_id = request_id
        self._hour_tokens = hour_tokens
        self.diagnostics: CacheExplanation | None = None
        """Of the prompt, where the request asks for it; `respond` has it filled before anything is written."""

    def complete(self, generations: Sequence[Generation], answers: Sequence[Sequence[Answer]]) -> dict[str, Any]:
        answer = answers[0][0]
        for piece in self._reader.push(answer.text) + self._reader.flush():
            self._content.add(piece)
        self._content.close()
        return self._message(self._ending(answer), generations)

    async def frames(
        self, generations: Sequence[Generation], events: AsyncGenerator[Event, None]
    ) -> AsyncGenerator[bytes, None]:
        begun = False
        try:
            async for _, event in events:
                out = b"" if begun else _event("message_start", message=self._message(_UNENDED, generations))
                begun = True
                pieces = self._reader.push(event.text)
                if event.finish_reason is not None:
                    pieces += self._reader.flush()
                told = [one for piece in pieces for one in self._content.add(piece)]
                if event.finish_reason is not None:
                    told += self._content.close()
                    told.append(
                        (
                            "message_delta",
                            {"delta": self._ending(event), "usage": _counted(generations, self._hour_tokens)},
                        )
                    )
                    told.append(("message_stop", {}))
                if out := out + b"".join(_event(name, **fields) for name, fields in told):
                    yield out
        finally:
            await events.aclose()

    def failed(self, error: ApiError) -> bytes:
        return b"event: error\ndata: %s\n\n" % encode(envelope(error, self._request_id))

    def _message(self, ending: dict[str, str | None], generations: Sequence[Generation]) -> dict[str, Any]:
        counted = {**_counted(generations, self._hour_tokens), "service_tier": "standard"}
        shown = {} if self.diagnostics is None else {"diagnostics": self.diagnostics}
        return {**self._head, "content": self._content.blocks, **ending, "usage": counted, **shown}

    def _ending(self, answer: Answer | TextDelta) -> dict[str, str | None]:
        if isinstance(answer.stop_reason, str):
            return {"stop_reason": "stop_sequence", "stop_sequence": answer.stop_reason}
        if answer.finish_reason == "length":
            return {"stop_reason": "max_tokens", "stop_sequence": None}
        return {"stop_reason": "tool_use" if self._content.has_calls else "end_turn", "stop_sequence": None}


_UNENDED: dict[str, str | None] = {"stop_reason": None, "stop_sequence": None}


def _counted(generations: Sequence[Generation], hour_tokens: int) -> dict[str, Any]:
    """The prompt's tokens in three parts: computed only, written to the prefix cache, read from it. What was written
    before a mark of an hour counts there."""
    total = usage(generations)
    details = total.prompt_tokens_details
    hour = min(max(0, hour_tokens - details.cached_tokens), details.cache_write_tokens)
    written = {"ephemeral_5m_input_tokens": details.cache_write_tokens - hour, "ephemeral_1h_input_tokens": hour}
    return {
        "input_tokens": total.prompt_tokens - details.cache_write_tokens - details.cached_tokens,
        "cache_creation_input_tokens": details.cache_write_tokens,
        "cache_read_input_tokens": details.cached_tokens,
        "cache_creation": written,
        "output_tokens": total.completion_tokens,
    }


def _event(name: str, /, **fields: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), encode({"type": name, **fields}))
