"""POST /v1/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from fastapi import APIRouter, Depends, Request
from msgspec import UNSET
from starlette.responses import Response

from multiflora_engine.protocol.requests import PositionLogprobs
from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.gateway.generation.admission import Admission
from multiflora_platform.gateway.generation.collect import Event
from multiflora_platform.gateway.generation.event_stream import frame
from multiflora_platform.gateway.generation.generation import Generation
from multiflora_platform.gateway.generation.logprobs import LogprobWriter
from multiflora_platform.gateway.generation.respond import respond
from multiflora_platform.gateway.generation.start import start
from multiflora_platform.gateway.generation.usage import usage, wants_usage
from multiflora_platform.gateway.prompting.answer_format import compile_structure, requested_structure
from multiflora_platform.gateway.prompting.beam_params import beam_params
from multiflora_platform.gateway.prompting.sampling import output_length, sampling_params
from multiflora_platform.gateway.prompting.tokenize import completion_prompts, truncate
from multiflora_platform.gateway.schemas.answers import Completion, CompletionChoice, CompletionLogprobs
from multiflora_platform.gateway.schemas.checks import check_streaming, refuse_unsupported
from multiflora_platform.gateway.schemas.decoding import body_schema, read_body
from multiflora_platform.gateway.schemas.requests import CompletionRequest
from multiflora_platform.text.answer import Answer

router = APIRouter(tags=["inference"])
DEFAULT_MAX_TOKENS = 16


@router.post("/v1/completions", openapi_extra=body_schema(CompletionRequest))
async def completions(request: Request, principal: Principal = Depends(require_key)) -> Response:
    """Continue one prompt or several; OpenAI's call with vLLM's additional parameters."""
    body = await read_body(request, CompletionRequest)
    refuse_unsupported(body)
    check_streaming(body)
    admission = Admission(request, principal, body)
    try:
        generations = await _start(admission, body)
        return await respond(request, admission, generations, _Writer(admission, body), bool(body.stream))
    except BaseException:
        admission.close()
        raise


async def _start(admission: Admission, body: CompletionRequest) -> list[Generation]:
    services = admission.services
    model, limit = services.model, services.max_model_len
    prompts = []
    for ids in await completion_prompts(body, model.tokenizer, model.vocab_size):
        ids = truncate(ids, body.truncate_prompt_tokens, limit, body.max_tokens)
        echoed = body.logprobs if body.echo else None
        params = sampling_params(
            body,
            model.generation_defaults,
            max_tokens=output_length(len(ids), body.max_tokens, DEFAULT_MAX_TOKENS, limit, ("max_tokens", "prompt")),
            logprobs=_candidate_logprobs(body),
            prompt_logprobs=body.prompt_logprobs if echoed is None else max(echoed, body.prompt_logprobs or 0),
            vocab_size=model.vocab_size,
        )
        prompts.append((ids, params))
    beams = beam_params(body, params, model.eos_token_ids)
    return start(admission, prompts, beams=beams, grammar=await _grammar(admission, body))


async def _grammar(admission: Admission, body: CompletionRequest) -> str | None:
    asked = requested_structure(body)
    return None if asked is None else await compile_structure(admission.services.grammars, *asked)


def _candidate_logprobs(body: CompletionRequest) -> int | None:
    """best_of chooses by log-probability, asked for or not."""
    return 0 if body.logprobs is None and body.best_of is not None else body.logprobs


class _Writer:
    def __init__(self, admission: Admission, body: CompletionRequest) -> None:
        self._body = body
        self._n = body.n or 1
        self._tokenizer = admission.services.model.tokenizer
        self._logprobs = LogprobWriter(self._tokenizer, bool(body.return_tokens_as_token_ids))
        self._id = f"cmpl-{admission.id}"
        self._created = int(admission.arrival)

    def complete(self, generations: Sequence[Generation], answers: Sequence[Sequence[Answer]]) -> Completion:
        choices = [
            self._choice(number, generation, answer)
            for number, generation in enumerate(generations)
            for answer in answers[number]
        ]
        return self._completion(choices, generations)

    async def frames(
        self, generations: Sequence[Generation], events: AsyncGenerator[Event, None]
    ) -> AsyncGenerator[bytes, None]:
        body, (at_end, always) = self._body, wants_usage(self._body)
        offsets: dict[tuple[int, int], int] = {}
        try:
            async for number, event in events:
                is_first = (number, event.index) not in offsets
                if not (event.text or event.finish_reason or body.return_token_ids or event.logprobs or is_first):
                    continue
                generation = generations[number]
                choice = CompletionChoice(
                    index=number * self._n + event.index,
                    text=event.text,
                    finish_reason=event.finish_reason,
                    stop_reason=event.stop_reason,
                )
                offset = offsets.get((number, event.index), 0)
                self._add_tokens(choice, generation, event.token_ids, event.logprobs, is_first, offset)
                offsets[number, event.index] = offset + _width(choice.logprobs)
                chunk = self._completion([choice], generations if always else None)
                if at_end and not always:
                    chunk.usage = None
                yield frame(chunk)
            if at_end:
                yield frame(self._completion([], generations))
        finally:
            await events.aclose()

    def _completion(self, choices: list[CompletionChoice], counted: Sequence[Generation] | None) -> Completion:
        total = UNSET if counted is None else usage(counted)
        return Completion(id=self._id, created=self._created, model=self._body.model, choices=choices, usage=total)

    def _choice(self, number: int, generation: Generation, answer: Answer) -> CompletionChoice:
        choice = CompletionChoice(
            index=number * self._n + answer.index,
            text=answer.text,
            finish_reason=answer.finish_reason,
            stop_reason=answer.stop_reason,
        )
        self._add_tokens(choice, generation, answer.token_ids, answer.logprobs, True, 0)
        if self._body.prompt_logprobs is not None and generation.prompt_logprobs is not None:
            choice.prompt_logprobs = self._logprobs.prompt(generation.prompt_logprobs)
        return choice

    def _add_tokens(
        self,
        choice: CompletionChoice,
        generation: Generation,
        token_ids: list[int],
        positions: list[PositionLogprobs] | None,
        is_first: bool,
        offset: int,
    ) -> None:
        """Ids, log-probabilities and, at an answer's beginning, the echoed prompt."""
        body, prompt = self._body, generation.request.prompt_token_ids
        echoes = bool(body.echo) and is_first
        if echoes:
            choice.text = self._prompt_text(prompt) + choice.text
        if body.return_token_ids:
            choice.token_ids = token_ids
            if is_first:
                choice.prompt_token_ids = prompt
        if body.logprobs is not None:
            before = (generation.prompt_logprobs or []) if echoes else []
            ids = [*prompt, *token_ids] if before else token_ids
            choice.logprobs = self._logprobs.completion(ids, [*before, *(positions or ())], body.logprobs, offset)

    def _prompt_text(self, prompt: list[int]) -> str:
        if isinstance(self._body.prompt, str) and self._body.truncate_prompt_tokens is None:
            return self._body.prompt
        return self._tokenizer.decode(prompt, skip_special_tokens=self._body.skip_special_tokens is not False)


def _width(logprobs: CompletionLogprobs | None) -> int:
    return 0 if logprobs is None else sum(map(len, logprobs.tokens))
