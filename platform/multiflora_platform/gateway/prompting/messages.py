"""A conversation as a prompt: messages checked, and brought into the form that chat templates read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar

from msgspec.structs import replace

from multiflora_platform.gateway.prompting.tokenize import PromptRoom, encode_conversation
from multiflora_platform.gateway.schemas.requests import ChatRequest, TokenizeRequest
from multiflora_platform.groups import ServedModel
from multiflora_platform.text.chat_template import REASONING_KEYS, Template, reasoning_of
from multiflora_platform.text.errors import ChatTemplateError
from multiflora_platform.text.message_parts import DOCUMENT, by_digest, with_sorted_parts
from multiflora_platform.text.off_loop import INLINE, off_loop
from multiflora_platform.text.tokenizer import Tokenizer
from multiflora_platform.web.body_work import SMALL, too_much
from multiflora_platform.web.openai_errors import invalid, unsupported

Chat = TypeVar("Chat", bound=ChatRequest | TokenizeRequest)
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal", DOCUMENT)
# The name under which templates see the arguments of a call that are no JSON object.
_RAW = "raw_arguments"
_MESSAGE = 64
"""What the template's work on a message with nothing in it is like, in characters."""
_TOOL = 1024
"""The same of a tool."""


async def chat_prompt(
    request: ChatRequest | TokenizeRequest,
    model: ServedModel,
    room: PromptRoom,
    size: int = INLINE + 1,
) -> list[int]:
    """The conversation through the model's template, as token ids. size: of the request, in bytes; where it is
    not known, a thread takes it. Raises ApiError."""
    assert request.messages is not None, "the route knows whether it has messages or a prompt"
    try:
        template = template_of(request, model.tokenizer)
    except ChatTemplateError as error:
        raise invalid("messages", str(error)) from None
    size += _MESSAGE * len(request.messages) + _TOOL * len(request.tools or ())
    messages = await off_loop(size, partial(template_messages, request.messages, template, model.writes_channels))
    return await encode_conversation(request, messages, size, model, room)


def template_of(request: ChatRequest | TokenizeRequest, tokenizer: Tokenizer) -> Template | None:
    """What the request's messages are written with; None: the model has no template. Raises ChatTemplateError."""
    return None if tokenizer.templates.is_empty else tokenizer.templates.pick(request.tools)


def template_messages(
    messages: Sequence[dict[str, Any]], template: Template | None, in_channels: bool
) -> list[dict[str, Any]]:
    """Raises ApiError naming the message. template: decides whether a list of parts stays one (None: it does not).
    in_channels: see `ServedModel.writes_channels`."""
    if not messages:
        raise invalid("messages", "messages is empty; send at least one message.")
    checked = [_message(f"messages[{index}]", message, template) for index, message in enumerate(messages)]
    return [_with_one_thought(message) for message in checked] if in_channels else checked


def in_its_order(request: Chat) -> Chat:
    """With documents, beside the messages and in them, in the order in which they are put into the prompt."""
    if request.order != "any":
        return request
    messages = None if request.messages is None else [with_sorted_parts(message) for message in request.messages]
    documents = None if request.documents is None else by_digest(request.documents)
    return replace(request, messages=messages, documents=documents)


def assistant_prefix(messages: Sequence[dict[str, Any]]) -> str:
    """Of checked messages: the text of the last one, if it is the assistant's own."""
    return _text_of(messages[-1].get("content")) if messages[-1]["role"] == "assistant" else ""


def _message(place: str, message: dict[str, Any], template: Template | None) -> dict[str, Any]:
    role = message.get("role")
    if role not in ROLES:
        raise invalid(f"{place}.role", f"{place}.role must be one of {', '.join(ROLES)}.")
    if role == "developer" and template is not None and "developer" not in template.source:
        role = "system"
    out = {**message, "role": role}
    if calls := out.pop("tool_calls", None):  # templates ask whether the key is there: an empty list would be a call
        out["tool_calls"] = _tool_calls(f"{place}.tool_calls", calls)
    if message.get("content") is None and isinstance(message.get("refusal"), str):
        out["content"] = message["refusal"]
    elif message.get("content") is not None:
        out["content"] = _content(f"{place}.content", message["content"], template)
    elif not calls:
        raise invalid(f"{place}.content", f"{place}.content is required, unless the message has tool_calls.")
    return out


def _with_one_thought(message: dict[str, Any]) -> dict[str, Any]:
    """gpt-oss's template writes one message of text before a call, as a thought, and refuses a call with two: what was
    said before the call goes behind the reasoning."""
    reasoning, content = reasoning_of(message), message.get("content")
    if not message.get("tool_calls") or not reasoning or not content:
        return message
    text = _text_of(content)
    kept = {key: value for key, value in message.items() if key != "content" and key not in REASONING_KEYS}
    return {**kept, "reasoning_content": f"{reasoning}\n{text}" if text else reasoning}


def _text_of(content: str | list[Any] | None) -> str:
    """Of a checked message's content."""
    return content if isinstance(content, str) else "\n".join(_part("content", part) for part in content or ())


def _content(place: str, content: Any, template: Template | None) -> str | list[dict[str, Any]]:
    """A string stays one; text parts stay parts for a template that loops over them, otherwise they become lines."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise invalid(place, f"{place} must be a string or a non-empty list of text parts.")
    texts = [_part(f"{place}[{index}]", part) for index, part in enumerate(content)]
    if template is not None and template.takes_parts:
        return [{"type": "text", "text": text} for text in texts]
    return "\n".join(texts)


def _part(place: str, part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise invalid(place, f"{place} must be an object with type and text.")
    if part.get("type") not in _TEXT_PARTS:
        raise unsupported(
            f"{place}.type", f"{place}.type {str(part.get('type'))[:40]!r} is not supported; only text is."
        )
    name = "refusal" if part["type"] == "refusal" else "text"
    if not isinstance(text := part.get(name), str):
        raise invalid(f"{place}.{name}", f"{place}.{name} must be a string.")
    return text


def _tool_calls(place: str, calls: Any) -> list[dict[str, Any]]:
    """Arguments arrive as a JSON text; templates read an object."""
    if not isinstance(calls, list):
        raise invalid(place, f"{place} must be a list.")
    return [_tool_call(f"{place}[{index}]", call) for index, call in enumerate(calls)]


def _tool_call(place: str, call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise invalid(place, f"{place} must be an object with function.name and function.arguments.")
    return {**call, "function": {**function, "arguments": call_arguments(function.get("arguments"))}}


def call_arguments(given: Any) -> dict[str, Any]:
    """What a model wrote may be no JSON object: a call cut off at max_tokens, a number. The conversation goes on, and
    the template gets the text as it was."""
    if given in (None, "", [], "null", "[]"):
        return {}
    if isinstance(given, dict):
        return given
    if isinstance(given, str) and len(given) > SMALL and too_much(given.encode("utf-8", "replace")):
        return {_RAW: given}  # json would make objects of it without letting other requests run
    try:
        arguments = json.loads(given)
        json.dumps(arguments, ensure_ascii=False).encode()  # escapes of half characters are no text
    except (TypeError, ValueError, RecursionError):
        return {_RAW: given}
    return arguments if isinstance(arguments, dict) else {_RAW: given}
