"""`cache_control` of Anthropic's blocks, as marks of the chat that the request amounts to."""

from __future__ import annotations

from functools import partial
from typing import Any

from msgspec.structs import replace

from multiflora_platform.gateway.messages_api.conversation import chat_messages
from multiflora_platform.gateway.prompting.breakpoints import Breakpoint, Marks, ttl_seconds
from multiflora_platform.gateway.schemas.messages_requests import CountTokensRequest
from multiflora_platform.gateway.schemas.requests import ChatRequest
from multiflora_platform.web.openai_errors import ApiError

HOUR = 3600
_DEFAULT = "5m"


def message_marks(body: CountTokensRequest, chat: ChatRequest, of_context: int) -> list[Breakpoint]:
    """Of tools, system and messages, in the order of the prompt, the last one of each ttl.

    chat: of the body; the first `of_context` of its messages are a named context's, which stand before the body's own.
    """
    marks = Marks()
    for index, tool in enumerate(body.tools or ()):
        marks.note(_ttl(tool), partial(_until_tool, chat, index))
    for index, block in enumerate(body.system if isinstance(body.system, list) else ()):
        marks.note(_ttl(block), partial(_until_text, body, chat, of_context, index))
    for index, message in enumerate(body.messages):
        content = message.get("content")
        for place, block in enumerate(content if isinstance(content, list) else ()):
            marks.note(_ttl(block), partial(_until_block, body, chat, of_context, index, place))
    marks.note(_ttl({"cache_control": body.cache_control}), lambda: None)
    return marks.breakpoints()


def _ttl(block: Any) -> int | None:
    """None: it has no mark, or one that is none of Anthropic's."""
    mark = block.get("cache_control") if isinstance(block, dict) else None
    if not isinstance(mark, dict) or mark.get("type") != "ephemeral":
        return None
    return ttl_seconds(mark.get("ttl") or _DEFAULT)


def _until_tool(chat: ChatRequest, index: int) -> ChatRequest:
    return replace(chat, tools=(chat.tools or [])[: index + 1], messages=chat.messages[:1])


def _until_text(body: CountTokensRequest, chat: ChatRequest, of_context: int, index: int) -> ChatRequest:
    """index: of the block of `system`."""
    begun = _begun((body.system or [])[: index + 1], [])
    return replace(chat, messages=chat.messages[:of_context] + begun)


def _until_block(body: CountTokensRequest, chat: ChatRequest, of_context: int, index: int, place: int) -> ChatRequest:
    """index: of the message. place: of its block."""
    message = body.messages[index]
    cut = {**message, "content": message["content"][: place + 1]}
    begun = _begun(body.system, [*body.messages[:index], cut])
    return replace(chat, messages=chat.messages[:of_context] + begun)


def _begun(system: str | list[dict[str, Any]] | None, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The chat's messages of a beginning; of one that ends between a call and its result, none."""
    if not messages:
        return chat_messages(system, [{"role": "user", "content": "a"}])[:-1]
    try:
        return chat_messages(system, messages)
    except ApiError:
        return []
