"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from fastapi import APIRouter, Depends, Request
from msgspec import UNSET
from msgspec.structs import replace
from starlette.responses import Response

from multiflora_engine.protocol.sampling_params import MAX_LOGPROBS
from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.gateway.generation.admission import Admission
from multiflora_platform.gateway.generation.collect import Answer
from multiflora_platform.gateway.generation.event_stream import frame
from multiflora_platform.gateway.generation.generation import Generation, TextEvent
from multiflora_platform.gateway.generation.logprobs import LogprobWriter
from multiflora_platform.gateway.generation.respond import (
    Event,
    check_streaming,
    respond,
    usage,
    wants_usage,
)
from multiflora_platform.gateway.prompting.answer_format import answer_format
from multiflora_platform.gateway.prompting.beam_params import beam_params
from multiflora_platform.gateway.prompting.messages import assistant_prefix
from multiflora_platform.gateway.prompting.sampling import sampling_params
from multiflora_platform.gateway.prompting.structured_output import compile_structure
from multiflora_platform.gateway.prompting.tokenize import chat_prompt, output_length, truncate
from multiflora_platform.gateway.prompting.tool_choice import call_ids, tool_use
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
from multiflora_platform.gateway.schemas.decoding import body_schema, read_body
from multiflora_platform.gateway.schemas.requests import ChatRequest
from multiflora_platform.gateway.schemas.unsupported import refuse_unsupported
from multiflora_platform.messages.message import Message, MessageFormat, MessageReader
from multiflora_platform.messages.pieces import (
    CallArguments,
    CallBegin,
    Content,
    Piece,
    Reasoning,
)
from multiflora_platform.web.openai_errors import invalid

router = APIRouter(tags=["inference"])


@router.post("/v1/chat/completions", openapi_extra=body_schema(ChatRequest))
async def chat_completions(request: Request, principal: Principal = Depends(require_key)) -> Response:
    """Answer a conversation through the model's chat template; OpenAI's call with vLLM's additional parameters."""
    body = await read_body(request, ChatRequest)
    refuse_unsupported(body)
    check_streaming(body)
    num_top = num_top_logprobs(body)
    admission = Admission(request, principal, body)
    try:
        generations, form = await start_chat(admission, body, num_top)
        writer = _Writer(admission, body, num_top, form)
        return await respond(request, admission, generations, writer, bool(body.stream))
    except BaseException:
        admission.close()
        raise


async def start_chat(
    admission: Admission, body: ChatRequest, num_top: int | None
) -> tuple[list[Generation], MessageFormat]:
    """The conversation as a prompt, on its way, and how to read the answer. num_top: of `num_top_logprobs`.

    Raises ApiError.
    """
    services = admission.services
    model, limit = services.model, services.max_model_len
    name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    asked: int | None = getattr(body, name)
    if asked is not None and asked < 1:
        raise invalid(name, f"{name} must be at least 1, got {asked}.")
    # Before the template, which would only say that it fails.
    use = tool_use(body, model.tool_format)
    ids = truncate(await chat_prompt(body, model.tokenizer), body.truncate_prompt_tokens, limit, asked)
    form = answer_format(body, model, ids, use)
    params = sampling_params(
        body,
        model.generation_defaults,
        max_tokens=output_length(len(ids), asked, None, limit, (name, "messages")),
        logprobs=0 if num_top is None and body.best_of is not None else num_top,
        prompt_logprobs=body.prompt_logprobs,
        vocab_size=model.vocab_size,
    )
    if form.shows_special_tokens:
        params = replace(params, skip_special_tokens=False)
    beams = beam_params(body, params, model.eos_token_ids)
    grammar = None if form.structure is None else await compile_structure(services.grammars, *form.structure)
    return admission.start([(ids, params)], beams=beams, grammar=grammar), form.message


def num_top_logprobs(body: ChatRequest) -> int | None:
    """None when no log-probabilities are asked for."""
    if body.top_logprobs is not None:
        if not 0 <= body.top_logprobs <= MAX_LOGPROBS:
            raise invalid("top_logprobs", f"top_logprobs must be from 0 to {MAX_LOGPROBS}, got {body.top_logprobs}.")
        if body.top_logprobs and not body.logprobs:
            raise invalid("top_logprobs", "top_logprobs needs logprobs to be true.")
    return (body.top_logprobs or 0) if body.logprobs else None


class _Writer:
    def __init__(self, admission: Admission, body: ChatRequest, num_top: int | None, form: MessageFormat) -> None:
        self._body = body
        self._num_top = num_top
        self._form = form
        self._shows_reasoning = body.include_reasoning is not False
        self._new_call_id = call_ids(admission.services.model.tool_format)
        self._echoed = assistant_prefix(body.messages) if body.echo else ""
        self._logprobs = LogprobWriter(admission.services.model.tokenizer, bool(body.return_tokens_as_token_ids))
        self._id = f"chatcmpl-{admission.id}"
        self._created = int(admission.arrival)

    def complete(self, generations: Sequence[Generation], answers: Sequence[Sequence[Answer]]) -> ChatCompletion:
        generation = generations[0]
        completion = ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._body.model,
            choices=[self._choice(answer) for answer in answers[0]],
            usage=usage(generations),
        )
        if self._body.prompt_logprobs is not None and generation.prompt_logprobs is not None:
            completion.prompt_logprobs = self._logprobs.prompt(generation.prompt_logprobs)
        if self._body.return_token_ids:
            completion.prompt_token_ids = generation.request.prompt_token_ids
        return completion

    async def frames(
        self, generations: Sequence[Generation], events: AsyncGenerator[Event, None]
    ) -> AsyncGenerator[bytes, None]:
        at_end, self._always = wants_usage(self._body)
        self._null_usage = at_end
        readers: dict[int, MessageReader] = {}
        try:
            async for _, event in events:
                out = b""
                if event.index not in readers:
                    out = self._role(event.index, generations, is_first=not readers)
                    readers[event.index] = self._form.reader()
                out += self._message(event, readers[event.index], generations)
                if event.finish_reason is not None:
                    out += self._finish(event, readers[event.index], generations)
                if out:
                    yield out
            if at_end:
                yield frame(self._chunk([], generations, counted=True))
        finally:
            await events.aclose()

    def _role(self, index: int, generations: Sequence[Generation], is_first: bool) -> bytes:
        chunk = self._chunk([ChatChunkChoice(index=index, delta=Delta(role="assistant", content=""))], generations)
        if is_first and self._body.return_token_ids:
            chunk.prompt_token_ids = generations[0].request.prompt_token_ids
        if not self._echoed:
            return frame(chunk)
        echo = ChatChunkChoice(index=index, delta=Delta(content=self._echoed))
        return frame(chunk) + frame(self._chunk([echo], generations))

    def _message(self, event: TextEvent, reader: MessageReader, generations: Sequence[Generation]) -> bytes:
        """A chunk for each piece; the first one carries what belongs to the event's tokens."""
        pieces = reader.push(event.text)
        if event.finish_reason is not None:
            pieces += reader.flush()
        deltas = [delta for piece in pieces if (delta := self._delta(piece)) is not None]
        if not deltas and event.token_ids and (event.logprobs or self._body.return_token_ids):
            deltas = [Delta(content="")]
        choices = [ChatChunkChoice(index=event.index, delta=delta) for delta in deltas]
        if choices and self._num_top is not None and event.logprobs is not None:
            choices[0].logprobs = self._logprobs.chat(event.logprobs, self._num_top)
        if choices and self._body.return_token_ids:
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
                call = ToolCallDelta(index=index, id=self._new_call_id(), type="function", function=function)
                return Delta(tool_calls=[call])
            case CallArguments(index, text):
                return Delta(tool_calls=[ToolCallDelta(index=index, function=FunctionDelta(arguments=text))])

    def _finish(self, event: TextEvent, reader: MessageReader, generations: Sequence[Generation]) -> bytes:
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
        total = usage(generations) if counted or self._always else None if self._null_usage else UNSET
        return ChatChunk(id=self._id, created=self._created, model=self._body.model, choices=choices, usage=total)

    def _choice(self, answer: Answer) -> ChatChoice:
        message = self._form.read(answer.text)
        choice = ChatChoice(
            index=answer.index,
            message=self._chat_message(message),
            finish_reason=_finish_reason(answer.finish_reason, bool(message.calls)),
            stop_reason=answer.stop_reason,
        )
        if self._num_top is not None:
            choice.logprobs = self._logprobs.chat(answer.logprobs or [], self._num_top)
        if self._body.return_token_ids:
            choice.token_ids = answer.token_ids
        return choice

    def _chat_message(self, message: Message) -> ChatMessage:
        content = self._echoed + (message.content or "")
        out = ChatMessage(content=content or None if message.calls else content)
        if message.reasoning is not None and self._shows_reasoning:
            out.reasoning = out.reasoning_content = message.reasoning
        if message.calls:
            out.tool_calls = [
                ToolCall(id=self._new_call_id(), function=FunctionCall(name=call.name, arguments=call.arguments))
                for call in message.calls
            ]
        return out


def _finish_reason(reason: str | None, has_calls: bool) -> str | None:
    return "tool_calls" if has_calls and reason == "stop" else reason
