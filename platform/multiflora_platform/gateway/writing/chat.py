"""Chat completions as OpenAI writes them: one object, or a stream of chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import cached_property

from msgspec import UNSET

from multiflora_platform.gateway.generation.collect import Event
from multiflora_platform.gateway.generation.event_stream import frame
from multiflora_platform.gateway.generation.generation import Generation
from multiflora_platform.gateway.generation.logprobs import LogprobWriter
from multiflora_platform.gateway.generation.usage import usage, wants_usage
from multiflora_platform.gateway.prompting.messages import assistant_prefix
from multiflora_platform.gateway.prompting.tool_choice import new_call_id
from multiflora_platform.gateway.schemas.answers import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatMessage,
    Delta,
    FunctionCall,
    FunctionDelta,
    ToolCall,
    ToolCallDelta,
)
from multiflora_platform.gateway.schemas.requests import ChatRequest
from multiflora_platform.groups import ServedModel
from multiflora_platform.insight.views.misses import CacheExplanation
from multiflora_platform.messages.message import Message, MessageFormat, MessageReader
from multiflora_platform.messages.pieces import CallArguments, CallBegin, Content, Piece, Reasoning
from multiflora_platform.text.assembler import TextDelta
from multiflora_platform.text.best_answers import Answer


@dataclass
class ChatWriter:
    """Of one request."""

    body: ChatRequest
    num_top: int | None
    """Alternatives to show beside each token; None when no log-probabilities are asked for."""
    format: MessageFormat
    """How the answer's text is read."""
    model: ServedModel
    id: str
    created: int
    """Unix seconds."""
    fingerprint: str
    """Of what answers: the system_fingerprint."""
    diagnostics: CacheExplanation | None = None
    """Of the prompt, where the request asks for it; `respond` has it filled before anything is written."""

    def complete(self, generations: Sequence[Generation], answers: Sequence[Sequence[Answer]]) -> ChatCompletion:
        generation = generations[0]
        completion = ChatCompletion(
            id=self.id,
            created=self.created,
            model=self.body.model,
            choices=[self._choice(answer) for answer in answers[0]],
            system_fingerprint=self.fingerprint,
            usage=usage(generations),
        )
        if self.body.prompt_logprobs is not None and generation.prompt_logprobs is not None:
            completion.prompt_logprobs = self._logprobs.prompt(generation.prompt_logprobs)
        if self.body.return_token_ids:
            completion.prompt_token_ids = generation.request.prompt_token_ids
        if self.diagnostics is not None:
            completion.prompt_cache_diagnostics = self.diagnostics
        return completion

    async def frames(
        self, generations: Sequence[Generation], events: AsyncGenerator[Event, None]
    ) -> AsyncGenerator[bytes, None]:
        at_end, _ = self._wants_usage
        readers: dict[int, MessageReader] = {}
        try:
            async for _, event in events:
                out = b""
                if event.index not in readers:
                    out = self._role(event.index, generations, is_first=not readers)
                    readers[event.index] = self.format.reader()
                out += self._message(event, readers[event.index], generations)
                if event.finish_reason is not None:
                    out += self._finish(event, readers[event.index], generations)
                if out:
                    yield out
            if at_end:
                yield frame(self._chunk([], generations, counted=True))
        finally:
            await events.aclose()

    # Derived when first needed, once: each chunk needs them, and before the answer begins nothing here is called.
    @cached_property
    def _logprobs(self) -> LogprobWriter:
        return LogprobWriter(self.model.tokenizer, bool(self.body.return_tokens_as_token_ids))

    @cached_property
    def _wants_usage(self) -> tuple[bool, bool]:
        return wants_usage(self.body)

    def _call_id(self) -> str:
        return new_call_id(self.model.tool_format)

    @property
    def _shows_reasoning(self) -> bool:
        return self.body.include_reasoning is not False

    def _echoed(self) -> str:
        return assistant_prefix(self.body.messages) if self.body.echo else ""

    def _role(self, index: int, generations: Sequence[Generation], is_first: bool) -> bytes:
        chunk = self._chunk([ChatChunkChoice(index=index, delta=Delta(role="assistant", content=""))], generations)
        if is_first and self.body.return_token_ids:
            chunk.prompt_token_ids = generations[0].request.prompt_token_ids
        if is_first and self.diagnostics is not None:
            chunk.prompt_cache_diagnostics = self.diagnostics
        if not self._echoed():
            return frame(chunk)
        echo = ChatChunkChoice(index=index, delta=Delta(content=self._echoed()))
        return frame(chunk) + frame(self._chunk([echo], generations))

    def _message(self, event: TextDelta, reader: MessageReader, generations: Sequence[Generation]) -> bytes:
        """A chunk for each piece; the first one carries what belongs to the event's tokens."""
        pieces = reader.push(event.text)
        if event.finish_reason is not None:
            pieces += reader.flush()
        deltas = [delta for piece in pieces if (delta := self._delta(piece)) is not None]
        if not deltas and event.token_ids and (event.logprobs or self.body.return_token_ids):
            deltas = [Delta(content="")]
        choices = [ChatChunkChoice(index=event.index, delta=delta) for delta in deltas]
        if choices and self.num_top is not None and event.logprobs is not None:
            choices[0].logprobs = self._logprobs.chat(event.logprobs, self.num_top)
        if choices and self.body.return_token_ids:
            choices[0].token_ids = event.token_ids
        return b"".join(frame(self._chunk([choice], generations)) for choice in choices)

    def _delta(self, piece: Piece) -> Delta | None:
        match piece:
            case Content(text):
                return Delta(content=text)
            case Reasoning(text):
                return Delta(reasoning=text, reasoning_content=text) if self._shows_reasoning else None
            case CallBegin(index, name):
                function = FunctionDelta(name=name, arguments="")
                call = ToolCallDelta(index=index, id=self._call_id(), type="function", function=function)
                return Delta(tool_calls=[call])
            case CallArguments(index, text):
                return Delta(tool_calls=[ToolCallDelta(index=index, function=FunctionDelta(arguments=text))])

    def _finish(self, event: TextDelta, reader: MessageReader, generations: Sequence[Generation]) -> bytes:
        choice = ChatChunkChoice(
            index=event.index,
            delta=Delta(),
            finish_reason=_finish_reason(event.finish_reason, reader.has_calls),
            stop_reason=event.stop_reason,
        )
        return frame(self._chunk([choice], generations))

    def _chunk(
        self, choices: list[ChatChunkChoice], generations: Sequence[Generation], counted: bool = False
    ) -> ChatChunk:
        at_end, always = self._wants_usage
        total = usage(generations) if counted or always else None if at_end else UNSET
        return ChatChunk(
            id=self.id,
            created=self.created,
            model=self.body.model,
            choices=choices,
            system_fingerprint=self.fingerprint,
            usage=total,
        )

    def _choice(self, answer: Answer) -> ChatChoice:
        message = self.format.read(answer.text)
        choice = ChatChoice(
            index=answer.index,
            message=self._chat_message(message),
            finish_reason=_finish_reason(answer.finish_reason, bool(message.calls)),
            stop_reason=answer.stop_reason,
        )
        if self.num_top is not None:
            choice.logprobs = self._logprobs.chat(answer.logprobs or [], self.num_top)
        if self.body.return_token_ids:
            choice.token_ids = answer.token_ids
        return choice

    def _chat_message(self, message: Message) -> ChatMessage:
        content = self._echoed() + (message.content or "")
        out = ChatMessage(content=content or None if message.calls else content)
        if message.reasoning is not None and self._shows_reasoning:
            out.reasoning = out.reasoning_content = message.reasoning
        if message.calls:
            out.tool_calls = [
                ToolCall(
                    id=self._call_id(),
                    function=FunctionCall(name=call.name, arguments=call.arguments),
                )
                for call in message.calls
            ]
        return out


def _finish_reason(reason: str | None, has_calls: bool) -> str | None:
    return "tool_calls" if has_calls and reason == "stop" else reason
