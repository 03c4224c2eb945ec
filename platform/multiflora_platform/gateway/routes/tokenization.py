"""POST /tokenize and /detokenize, GET /tokenizer_info (vLLM's calls)."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.gateway.generation.admission import find_model
from multiflora_platform.gateway.prompting.messages import chat_prompt, in_its_order
from multiflora_platform.gateway.prompting.tokenize import PromptRoom, check_ids
from multiflora_platform.gateway.prompting.tool_choice import offered_tools
from multiflora_platform.gateway.schemas.checks import refuse_chat_template
from multiflora_platform.gateway.schemas.decoding import body_schema, body_size, read_body
from multiflora_platform.gateway.schemas.requests import DetokenizeRequest, TokenizeRequest
from multiflora_platform.groups import Group, ServedModel
from multiflora_platform.services import Services
from multiflora_platform.text.errors import TooManyTokens
from multiflora_platform.text.off_loop import off_loop
from multiflora_platform.web.openai_errors import invalid

router = APIRouter(tags=["tokenizer"], dependencies=[Depends(require_key)])


@router.post("/tokenize", openapi_extra=body_schema(TokenizeRequest))
async def tokenize(request: Request) -> Response:
    """The ids of a prompt, or of a conversation as the chat template renders it."""
    services: Services = request.app.state.services
    body = await read_body(request, TokenizeRequest)
    refuse_chat_template(body.chat_template)
    group = await _group(services, request, body.model)
    tokenizer, length = group.model.tokenizer, group.max_model_len
    ids = await _ids(group.model, length, body, await body_size(request))

    def answer() -> Response:
        strings = [tokenizer.token(token_id) or "" for token_id in ids] if body.return_token_strs else None
        return _json({"count": len(ids), "max_model_len": length, "tokens": ids, "token_strs": strings})

    return await off_loop(len(ids), answer)


@router.post("/detokenize", openapi_extra=body_schema(DetokenizeRequest))
async def detokenize(request: Request) -> Response:
    """The text of token ids, special tokens included."""
    services: Services = request.app.state.services
    body = await read_body(request, DetokenizeRequest)
    model = (await _group(services, request, body.model)).model

    def answer() -> Response:
        return _json({"prompt": model.tokenizer.decode(check_ids("tokens", body.tokens, model.vocab_size))})

    return await off_loop(len(body.tokens), answer)


@router.get("/tokenizer_info")
async def tokenizer_info(request: Request, model: str | None = None) -> Response:
    """tokenizer_config.json as the model brings it, with the named tokens and the chat template in use. model: of
    several base models, the one that is meant."""
    services: Services = request.app.state.services
    group = await _group(services, request, model)
    tokenizer = group.model.tokenizer
    return _json(
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **tokenizer.config,
            "vocab_size": tokenizer.vocab_size,
            "max_model_len": group.max_model_len,
            "chat_template": tokenizer.templates.source,
        }
    )


async def _group(services: Services, request: Request, model: str | None) -> Group:
    """Of the model that is named, or else the default one. Raises ApiError."""
    return services.groups.default if model is None else (await find_model(services, request, model)).group


async def _ids(model: ServedModel, length: int, body: TokenizeRequest, size: int) -> list[int]:
    """size: of the request, in bytes. Raises ApiError."""
    if (body.prompt is None) == (body.messages is None):
        raise invalid("prompt", "Send either prompt or messages.")
    room = PromptRoom(length, None, is_cut=True)
    if body.messages is not None:
        tools = await off_loop(size, partial(offered_tools, body.tools))
        ordered = await off_loop(size, partial(in_its_order, body))
        offered = msgspec.structs.replace(ordered, tools=tools)
        return await chat_prompt(offered, model, room, size)
    prompt, special = body.prompt or "", body.add_special_tokens is not False
    try:
        return await off_loop(len(prompt), lambda: model.tokenizer.encode(prompt, special, most=room.most))
    except TooManyTokens as error:
        raise room.error("prompt", error) from None


def _json(content: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")
