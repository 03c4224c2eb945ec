"""POST /v1/chat/completions: parse, resolve, prompt and parameters, admit, generate, write."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.gateway.explaining.diagnosis import diagnosing
from multiflora_platform.gateway.generation.admission import admit
from multiflora_platform.gateway.generation.document_prefills import require_reuse
from multiflora_platform.gateway.generation.respond import respond
from multiflora_platform.gateway.generation.start import start
from multiflora_platform.gateway.prompting.breakpoints import chat_breakpoints
from multiflora_platform.gateway.prompting.chat import prepare_chat
from multiflora_platform.gateway.prompting.messages import in_its_order
from multiflora_platform.gateway.prompting.named_contexts import chat_with_context
from multiflora_platform.gateway.schemas.checks import (
    check_streaming,
    marks_beginnings,
    num_top_logprobs,
    refuse_unsupported,
    reuses_documents,
)
from multiflora_platform.gateway.schemas.decoding import body_schema, body_size, read_body
from multiflora_platform.gateway.schemas.requests import ChatRequest
from multiflora_platform.gateway.writing.chat import ChatWriter
from multiflora_platform.services import Services
from multiflora_platform.text.message_parts import parts_of
from multiflora_platform.text.off_loop import off_loop

router = APIRouter(tags=["inference"])


@router.post("/v1/chat/completions", openapi_extra=body_schema(ChatRequest))
async def chat_completions(request: Request, principal: Principal = Depends(require_key)) -> Response:
    """Answer a conversation through the model's chat template; OpenAI's call with vLLM's additional parameters."""
    body = await read_body(request, ChatRequest)
    size = await body_size(request)
    refuse_unsupported(body)
    check_streaming(body)
    num_top, parts = num_top_logprobs(body), [*parts_of(body.messages)]
    has_marks, has_reuse = marks_beginnings(body, parts), reuses_documents(body, parts)
    services: Services = request.app.state.services
    if body.order is not None:
        body = await off_loop(size, partial(in_its_order, body))
    if body.context is not None:
        body, size = await chat_with_context(services.contexts.book, principal, body, size)
    admission = await admit(services, request, principal, body)
    try:
        group, model = admission.group, admission.group.model
        if has_reuse:
            require_reuse(group.engine, has_cache=services.settings.enable_prefix_caching)
        chat = await prepare_chat(body, model, group.max_model_len, group.grammars, num_top, size, has_reuse)
        prompts = [(chat.ids, chat.params)]
        holds = []
        if has_marks:
            breakpoints = request.app.state.keeper.of(group).breakpoints
            marks = await off_loop(size, partial(chat_breakpoints, body))
            holds = breakpoints.observer(principal, chat.ids, admission.resolved, body.cache_salt, marks)
        generations = await start(
            services,
            admission,
            prompts,
            beams=chat.beams,
            grammar=chat.grammar,
            marker_ids=chat.marker_ids,
            prediction=chat.prediction,
            documents=chat.documents,
            observers=holds,
        )
        id, created = f"chatcmpl-{admission.id}", int(admission.arrival)
        writer = ChatWriter(body, num_top, chat.format, model, id, created, admission.fingerprint)
        compare = body.prompt_cache_options.comparison_response_id if body.prompt_cache_options else None
        diagnose = diagnosing(services, group, principal, generations[0], body, compare, writer) if compare else None
        return await respond(request, admission, generations, writer, bool(body.stream), diagnose=diagnose)
    except BaseException:
        admission.close()
        raise
