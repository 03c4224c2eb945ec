"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API, stateless, on top of the chat template."""

from __future__ import annotations

from functools import partial

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.gateway.explaining.diagnosis import diagnosing
from multiflora_platform.gateway.generation.admission import admit, find_model
from multiflora_platform.gateway.generation.respond import respond
from multiflora_platform.gateway.generation.start import start
from multiflora_platform.gateway.messages_api.cache_marks import HOUR, message_marks
from multiflora_platform.gateway.messages_api.content import MessageContent
from multiflora_platform.gateway.messages_api.to_chat import chat_request, renamed
from multiflora_platform.gateway.messages_api.writer import MessageWriter
from multiflora_platform.gateway.prompting.chat import count_chat, prepare_chat
from multiflora_platform.gateway.prompting.named_contexts import chat_with_context
from multiflora_platform.gateway.prompting.tool_choice import new_call_id
from multiflora_platform.gateway.schemas.checks import refuse_unsupported
from multiflora_platform.gateway.schemas.decoding import body_schema, body_size, read_body
from multiflora_platform.gateway.schemas.messages_requests import CountTokensRequest, MessagesRequest
from multiflora_platform.gateway.schemas.requests import ChatRequest
from multiflora_platform.services import Services
from multiflora_platform.text.off_loop import off_loop
from multiflora_platform.web.openai_errors import ApiError

router = APIRouter(tags=["inference"])


@router.post("/v1/messages", openapi_extra=body_schema(MessagesRequest))
async def create_message(request: Request, principal: Principal = Depends(require_key)) -> Response:
    """Answer a conversation; Anthropic's call. Nothing is stored: send the whole conversation each time."""
    body = await read_body(request, MessagesRequest)
    size = await body_size(request)
    chat = await off_loop(size, partial(chat_request, body))
    try:
        return await _answer(request, principal, body, chat, size)
    except ApiError as error:
        raise renamed(error) from None


@router.post("/v1/messages/count_tokens", openapi_extra=body_schema(CountTokensRequest))
async def count_message_tokens(request: Request, principal: Principal = Depends(require_key)) -> Response:
    """The tokens that /v1/messages would read of this conversation; nothing is generated."""
    services: Services = request.app.state.services
    body = await read_body(request, CountTokensRequest)
    resolved = await find_model(services, request, body.model, body.user)
    size = await body_size(request)
    chat = await off_loop(size, partial(chat_request, body))
    try:
        refuse_unsupported(chat)
        chat, size = await chat_with_context(services.contexts.book, principal, chat, size)
        count = await count_chat(chat, resolved.group.model, size)
    except ApiError as error:
        raise renamed(error) from None
    return Response(msgspec.json.encode({"input_tokens": count}), media_type="application/json")


async def _answer(
    request: Request, principal: Principal, body: MessagesRequest, chat: ChatRequest, size: int
) -> Response:
    """size: of the request, in bytes."""
    refuse_unsupported(chat)
    services: Services = request.app.state.services
    own_messages = len(chat.messages)
    chat, size = await chat_with_context(services.contexts.book, principal, chat, size)
    admission = await admit(services, request, principal, chat)
    try:
        group, model = admission.group, admission.group.model
        prompt = await prepare_chat(chat, model, group.max_model_len, group.grammars, None, size)
        prompts = [(prompt.ids, prompt.params)]
        marks = []
        if services.settings.enable_prefix_caching:
            of_context = len(chat.messages) - own_messages
            marks = await off_loop(size, partial(message_marks, body, chat, of_context))
        breakpoints = request.app.state.keeper.of(group).breakpoints
        holds = breakpoints.observer(principal, prompt.ids, admission.resolved, chat.cache_salt, marks)
        generations = await start(
            services, admission, prompts, grammar=prompt.grammar, marker_ids=prompt.marker_ids, observers=holds
        )
        shows_thinking = body.thinking is not None and body.thinking.is_shown
        content = MessageContent(shows_thinking, partial(new_call_id, model.tool_format, "toolu_"))
        id, request_id = f"msg_{admission.id}", getattr(request.state, "request_id", None)
        limit = group.max_model_len
        hours = [await mark.held_tokens(prompt.ids, model, limit) for mark in marks if mark.ttl >= HOUR]
        writer = MessageWriter(id, body.model, prompt.format, content, request_id, max(hours, default=0))
        compare = body.diagnostics.previous_message_id if body.diagnostics else None
        diagnose = diagnosing(services, group, principal, generations[0], chat, compare, writer) if compare else None
        return await respond(request, admission, generations, writer, bool(body.stream), writer, diagnose)
    except BaseException:
        admission.close()
        raise
