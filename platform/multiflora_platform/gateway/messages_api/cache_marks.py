"""`cache_control` of Anthropic's blocks, as marks of the chat that the request amounts to."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from multiflora_platform.gateway.messages_api.conversation import chat_messages
from multiflora_platform.gateway.prompting.breakpoints import Breakpoint, last_of_each_ttl, ttl_seconds
from multiflora_platform.gateway.schemas.messages_requests import CountTokensRequest
from multiflora_platform.gateway.schemas.requests import ChatRequest
from multiflora_platform.web.openai_errors import ApiError

HOUR = 3600
_DEFAULT = "5m"


def message_marks(body: CountTokensRequest, chat: ChatRequest) -> list[Breakpoint]:
    """Of tools, system and messages, in the order of the prompt, the last one of each ttl.

    chat: of the body, perhaps with a named context's messages before its own.
    """

    def before() -> list[dict[str, Any]]:
        return chat.messages[: len(chat.messages) - len(chat_messages(body.system, body.messages))]

    marks = []
    for index, tool in enumerate(body.tools or ()):
        if ttl := _ttl(tool):
            marks.append(
                Breakpoint(ttl, replace(chat, tools=(chat.tools or [])[: index + 1], messages=chat.messages[:1]))
            )
    system = body.system if isinstance(body.system, list) else []
    for index, block in enumerate(system):
        if ttl := _ttl(block):
            marks.append(Breakpoint(ttl, replace(chat, messages=before() + _begun(system[: index + 1], []))))
    for index, message in enumerate(body.messages):
        content = message.get("content")
        blocks: list[Any] = content if isinstance(content, list) else []
        for place, block in enumerate(blocks):
            if ttl := _ttl(block):
                cut = [*body.messages[:index], {**message, "content": blocks[: place + 1]}]
                marks.append(Breakpoint(ttl, replace(chat, messages=before() + _begun(body.system, cut))))
    if ttl := _ttl({"cache_control": body.cache_control}):
        marks.append(Breakpoint(ttl, None))
    return last_of_each_ttl(marks)


def _ttl(block: Any) -> int | None:
    """None: it has no mark, or one that is none of Anthropic's."""
    mark = block.get("cache_control") if isinstance(block, dict) else None
    if not isinstance(mark, dict) or mark.get("type") != "ephemeral":
        return None
    return ttl_seconds(mark.get("ttl") or _DEFAULT)


def _begun(system: str | list[dict[str, Any]] | None, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The chat's messages of a beginning; of one that ends between a call and its result, none."""
    if not messages:
        return chat_messages(system, [{"role": "user", "content": "a"}])[:-1]
    try:
        return chat_messages(system, messages)
    except ApiError:
        return []
