"""POST /v1/responses: OpenAI's newer call, stateless, on top of the chat template."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.gateway.explaining.diagnosis import diagnosing
from multiflora_platform.gateway.generation.admission import admit
from multiflora_platform.gateway.generation.respond import respond
from multiflora_platform.gateway.generation.start import start
from multiflora_platform.gateway.prompting.breakpoints import chat_breakpoints
from multiflora_platform.gateway.prompting.chat import prepare_chat
from multiflora_platform.gateway.prompting.named_contexts import chat_with_context
from multiflora_platform.gateway.responses_api.to_chat import chat_request, renamed
from multiflora_platform.gateway.responses_api.writer import ResponseWriter
from multiflora_platform.gateway.schemas.checks import (
    check_streaming,
    marks_beginnings,
    num_top_logprobs,
    refuse_unsupported,
)
from multiflora_platform.gateway.schemas.decoding import body_schema, body_size, read_body
from multiflora_platform.gateway.schemas.requests import ResponseRequest
from multiflora_platform.services import Services
from multiflora_platform.text.message_parts import parts_of
from multiflora_platform.text.off_loop import off_loop
from multiflora_platform.web.openai_errors import ApiError

router = APIRouter(tags=["inference"])


@router.post("/v1/responses", openapi_extra=body_schema(ResponseRequest))
async def create_response(request: Request, principal: Principal = Depends(require_key)) -> Response:
    """Answer a text or a list of items. Nothing is stored: send the whole conversation each time."""
    body = await read_body(request, ResponseRequest)
    try:
        return await _answer(request, principal, body)
    except ApiError as error:
        raise renamed(error) from None


async def _answer(request: Request, principal: Principal, body: ResponseRequest) -> Response:
    size = await body_size(request)
    chat = await off_loop(size, partial(chat_request, body))
    refuse_unsupported(chat)
    check_streaming(chat)
    num_top = num_top_logprobs(chat)
    services: Services = request.app.state.services
    chat, size = await chat_with_context(services.contexts.book, principal, chat, size)
    admission = await admit(services, request, principal, chat)
    try:
        group, model = admission.group, admission.group.model
        prompt = await prepare_chat(chat, model, group.max_model_len, group.grammars, num_top, size)
        prompts = [(prompt.ids, prompt.params)]
        holds = []
        if marks_beginnings(chat, parts_of(chat.messages)):
            breakpoints = request.app.state.keeper.of(group).breakpoints
            marks = await off_loop(size, partial(chat_breakpoints, chat))
            holds = breakpoints.observer(principal, prompt.ids, admission.resolved, chat.cache_salt, marks)
        generations = await start(
            services,
            admission,
            prompts,
            beams=prompt.beams,
            grammar=prompt.grammar,
            marker_ids=prompt.marker_ids,
            observers=holds,
        )
        writer = ResponseWriter(admission, body, num_top, prompt.format, model.tokenizer)
        compare = body.prompt_cache_options.comparison_response_id if body.prompt_cache_options else None
        diagnose = diagnosing(services, group, principal, generations[0], chat, compare, writer) if compare else None
        return await respond(request, admission, generations, writer, bool(body.stream), writer, diagnose)
    except BaseException:
        admission.close()
        raise
