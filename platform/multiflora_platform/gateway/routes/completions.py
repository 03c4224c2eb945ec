"""POST /v1/completions: parse, resolve, prompts and parameters, admit, generate, write."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.gateway.generation.admission import Admission, admit, find_model
from multiflora_platform.gateway.generation.generation import Generation
from multiflora_platform.gateway.generation.respond import respond
from multiflora_platform.gateway.generation.start import start
from multiflora_platform.gateway.prompting.answer_format import compile_structure, requested_structure
from multiflora_platform.gateway.prompting.beam_params import beam_params
from multiflora_platform.gateway.prompting.named_contexts import completion_with_context
from multiflora_platform.gateway.prompting.sampling import output_length, sampling_params
from multiflora_platform.gateway.prompting.tokenize import completion_prompts, truncate
from multiflora_platform.gateway.schemas.checks import check_streaming, refuse_unsupported
from multiflora_platform.gateway.schemas.decoding import body_schema, body_size, read_body
from multiflora_platform.gateway.schemas.requests import CompletionRequest
from multiflora_platform.gateway.writing.completions import CompletionWriter
from multiflora_platform.groups import ServedModel
from multiflora_platform.services import Services
from multiflora_platform.structured.compiler import GrammarCompiler
from multiflora_platform.text.off_loop import off_loop

router = APIRouter(tags=["inference"])
DEFAULT_MAX_TOKENS = 16
# What making and checking parameters takes, in characters of text that is tokenised.
_PARAMS = 128


@router.post("/v1/completions", openapi_extra=body_schema(CompletionRequest))
async def completions(request: Request, principal: Principal = Depends(require_key)) -> Response:
    """Continue one prompt or several; OpenAI's call with vLLM's additional parameters."""
    body = await read_body(request, CompletionRequest)
    size = await body_size(request)
    refuse_unsupported(body)
    check_streaming(body)
    services: Services = request.app.state.services
    if body.context is not None:
        tokenizer = (await find_model(services, request, body.model, body.user)).group.model.tokenizer
        body, size = await completion_with_context(services.contexts.book, principal, body, size, tokenizer)
    admission = await admit(services, request, principal, body)
    try:
        generations = await _start(services, admission, body, size)
        id, created = f"cmpl-{admission.id}", int(admission.arrival)
        writer = CompletionWriter(body, admission.group.model.tokenizer, id, created, admission.fingerprint)
        return await respond(request, admission, generations, writer, bool(body.stream))
    except BaseException:
        admission.close()
        raise


async def _start(services: Services, admission: Admission, body: CompletionRequest, size: int) -> list[Generation]:
    """size: of the request, in bytes."""
    group, model, limit = admission.group, admission.group.model, admission.group.max_model_len
    ids = await completion_prompts(body, model.tokenizer, model.vocab_size, limit)
    prompts = await off_loop(_PARAMS * len(ids), lambda: [_with_params(model, limit, body, prompt) for prompt in ids])
    beams = beam_params(body, prompts[-1][1], model.eos_token_ids)
    grammar = await _grammar(group.grammars, body, size)
    return await start(services, admission, prompts, beams=beams, grammar=grammar)


def _with_params(
    model: ServedModel, limit: int, body: CompletionRequest, ids: list[int]
) -> tuple[list[int], SamplingParams]:
    """The prompt as the engine gets it, and how it is to be continued. Raises ApiError."""
    ids = truncate(ids, body.truncate_prompt_tokens, limit, body.max_tokens)
    echoed = body.logprobs if body.echo else None
    default = model.default_max_tokens or DEFAULT_MAX_TOKENS
    return ids, sampling_params(
        body,
        model.generation_defaults,
        max_tokens=output_length(len(ids), body.max_tokens, default, limit, ("max_tokens", "prompt")),
        logprobs=_candidate_logprobs(body),
        prompt_logprobs=body.prompt_logprobs if echoed is None else max(echoed, body.prompt_logprobs or 0),
        vocab_size=model.vocab_size,
    )


async def _grammar(grammars: GrammarCompiler, body: CompletionRequest, size: int) -> str | None:
    asked = await off_loop(size // 8, partial(requested_structure, body))
    return None if asked is None else await compile_structure(grammars, *asked)


def _candidate_logprobs(body: CompletionRequest) -> int | None:
    """best_of chooses by log-probability, asked for or not."""
    return 0 if body.logprobs is None and body.best_of is not None else body.logprobs
