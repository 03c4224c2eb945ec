"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from fastapi import APIRouter, Depends, Request
from msgspec import UNSET
from starlette.responses import Response

from multiflora_engine.sampling_params import MAX_LOGPROBS
from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.gateway.admission import Admission
from multiflora_platform.gateway.answering import Event, check_streaming, respond, usage, wants_usage
from multiflora_platform.gateway.answers import Answer
from multiflora_platform.gateway.beams import beam_params
from multiflora_platform.gateway.bodies import body_schema, read_body
from multiflora_platform.gateway.errors import invalid
from multiflora_platform.gateway.generation import Generation, TextEvent
from multiflora_platform.gateway.logprobs import LogprobWriter
from multiflora_platform.gateway.prompts import chat_prompt, output_length, truncate
from multiflora_platform.gateway.requests import ChatRequest
from multiflora_platform.gateway.responses import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatMessage,
    Delta,
)
from multiflora_platform.gateway.sampling import sampling_params
from multiflora_platform.gateway.streaming import frame
from multiflora_platform.gateway.structured import compile_structure, requested_structure
from multiflora_platform.gateway.unsupported import refuse_unsupported

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
        generations = await start_chat(admission, body, num_top)
        return await respond(request, admission, generations, _Writer(admission, body, num_top), bool(body.stream))
    except BaseException:
        admission.close()
        raise


async def start_chat(admission: Admission, body: ChatRequest, num_top: int | None) -> list[Generation]:
    """The conversation as a prompt, on its way. num_top: of `num_top_logprobs`. Raises ApiError."""
    services = admission.services
    model, limit = services.model, services.max_model_len
    name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    asked: int | None = getattr(body, name)
    if asked is not None and asked < 1:
        raise invalid(name, f"{name} must be at least 1, got {asked}.")
    ids = truncate(await chat_prompt(body, model.tokenizer), body.truncate_prompt_tokens, limit, asked)
    params = sampling_params(
        body,
        model.generation_defaults,
        max_tokens=output_length(len(ids), asked, None, limit, (name, "messages")),
        logprobs=0 if num_top is None and body.best_of is not None else num_top,
        prompt_logprobs=body.prompt_logprobs,
        vocab_size=model.vocab_size,
    )
    asked_form = requested_structure(body)
    grammar = None if asked_form is None else await compile_structure(services.grammars, *asked_form)
    beams = beam_params(body, params, model.eos_token_ids)
    return admission.start([(ids, params)], beams=beams, grammar=grammar)


def num_top_logprobs(body: ChatRequest) -> int | None:
    """None when no log-probabilities are asked for."""
    if body.top_logprobs is not None:
        if not 0 <= body.top_logprobs <= MAX_LOGPROBS:
            raise invalid("top_logprobs", f"top_logprobs must be from 0 to {MAX_LOGPROBS}, got {body.top_logprobs}.")
        if body.top_logprobs and not body.logprobs:
            raise invalid("top_logprobs", "top_logprobs needs logprobs to be true.")
    return (body.top_logprobs or 0) if body.logprobs else None


class _Writer:
    def __init__(self, admission: Admission, body: ChatRequest, num_top: int | None) -> None:
        self._body = body
        self._num_top = num_top
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
        begun: set[int] = set()
        try:
            async for _, event in events:
                out = b""
                if event.index not in begun:
                    out = self._role(event.index, generations, is_first=not begun)
                    begun.add(event.index)
                out += self._content(event, generations)
                if event.finish_reason is not None:
                    out += self._finish(event, generations)
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
        return frame(chunk)

    def _content(self, event: TextEvent, generations: Sequence[Generation]) -> bytes:
        if not (event.text or (event.token_ids and (event.logprobs or self._body.return_token_ids))):
            return b""
        choice = ChatChunkChoice(index=event.index, delta=Delta(content=event.text))
        if self._num_top is not None and event.logprobs is not None:
            choice.logprobs = self._logprobs.chat(event.logprobs, self._num_top)
        if self._body.return_token_ids:
            choice.token_ids = event.token_ids
        return frame(self._chunk([choice], generations))

    def _finish(self, event: TextEvent, generations: Sequence[Generation]) -> bytes:
        choice = ChatChunkChoice(
            index=event.index, delta=Delta(), finish_reason=event.finish_reason, stop_reason=event.stop_reason
        )
        return frame(self._chunk([choice], generations))

    def _chunk(
        self, choices: list[ChatChunkChoice], generations: Sequence[Generation], counted: bool = False
    ) -> ChatChunk:
        total = usage(generations) if counted or self._always else None if self._null_usage else UNSET
        return ChatChunk(id=self._id, created=self._created, model=self._body.model, choices=choices, usage=total)

    def _choice(self, answer: Answer) -> ChatChoice:
        choice = ChatChoice(
            index=answer.index,
            message=ChatMessage(content=answer.text),
            finish_reason=answer.finish_reason,
            stop_reason=answer.stop_reason,
        )
        if self._num_top is not None:
            choice.logprobs = self._logprobs.chat(answer.logprobs or [], self._num_top)
        if self._body.return_token_ids:
            choice.token_ids = answer.token_ids
        return choice
