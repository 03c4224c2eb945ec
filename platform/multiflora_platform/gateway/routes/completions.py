"""POST /v1/completions: parse, resolve, prompts and parameters, admit, generate, write."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.gateway.generation.admission import Admission, admit
from multiflora_platform.gateway.generation.generation import Generation
from multiflora_platform.gateway.generation.respond import respond
from multiflora_platform.gateway.generation.start import start
from multiflora_platform.gateway.prompting.answer_format import compile_structure, requested_structure
from multiflora_platform.gateway.prompting.beam_params import beam_params
from multiflora_platform.gateway.prompting.sampling import output_length, sampling_params
from multiflora_platform.gateway.prompting.tokenize import completion_prompts, truncate
from multiflora_platform.gateway.schemas.checks import check_streaming, refuse_unsupported
from multiflora_platform.gateway.schemas.decoding import body_schema, read_body
from multiflora_platform.gateway.schemas.requests import CompletionRequest
from multiflora_platform.gateway.writing.completions import CompletionWriter
from multiflora_platform.services import Services
from multiflora_platform.structured.compiler import GrammarCompiler

router = APIRouter(tags=["inference"])
DEFAULT_MAX_TOKENS = 16


@router.post("/v1/completions", openapi_extra=body_schema(CompletionRequest))
async def completions(request: Request, principal: Principal = Depends(require_key)) -> Response:
    """Continue one prompt or several; OpenAI's call with vLLM's additional parameters."""
    body = await read_body(request, CompletionRequest)
    refuse_unsupported(body)
    check_streaming(body)
    services: Services = request.app.state.services
    admission = await admit(services, request, principal, body)
    try:
        generations = await _start(services, admission, body)
        id, created = f"cmpl-{admission.id}", int(admission.arrival)
        writer = CompletionWriter(body, services.model.tokenizer, id, created, admission.fingerprint)
        return await respond(request, admission, generations, writer, bool(body.stream))
    except BaseException:
        admission.close()
        raise


async def _start(services: Services, admission: Admission, body: CompletionRequest) -> list[Generation]:
    model, limit = services.model, services.max_model_len
    default = model.default_max_tokens or DEFAULT_MAX_TOKENS
    prompts = []
    for ids in await completion_prompts(body, model.tokenizer, model.vocab_size, limit):
        ids = truncate(ids, body.truncate_prompt_tokens, limit, body.max_tokens)
        echoed = body.logprobs if body.echo else None
        params = sampling_params(
            body,
            model.generation_defaults,
            max_tokens=output_length(len(ids), body.max_tokens, default, limit, ("max_tokens", "prompt")),
            logprobs=_candidate_logprobs(body),
            prompt_logprobs=body.prompt_logprobs if echoed is None else max(echoed, body.prompt_logprobs or 0),
            vocab_size=model.vocab_size,
        )
        prompts.append((ids, params))
    beams = beam_params(body, params, model.eos_token_ids)
    return start(services, admission, prompts, beams=beams, grammar=await _grammar(services.grammars, body))


async def _grammar(grammars: GrammarCompiler, body: CompletionRequest) -> str | None:
    asked = requested_structure(body)
    return None if asked is None else await compile_structure(grammars, *asked)


def _candidate_logprobs(body: CompletionRequest) -> int | None:
    """best_of chooses by log-probability, asked for or not."""
    return 0 if body.logprobs is None and body.best_of is not None else body.logprobs
