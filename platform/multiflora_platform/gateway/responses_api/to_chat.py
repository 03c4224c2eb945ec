"""The body of POST /v1/responses, and the chat request that it amounts to: items to messages, tools to tools.

The server keeps no responses: what refers to stored ones is refused by name.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from multiflora_platform.gateway.schemas.requests import ChatRequest, GenerationRequest, ResponseFormat, ResponseRequest
from multiflora_platform.web.openai_errors import ApiError, invalid, unsupported

_LOGPROBS = "message.output_text.logprobs"
# Of tools that this server does not have; and reasoning, which is never hidden.
_NOTHING_TO_INCLUDE = {
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
}
_STORED = ("previous_response_id", "conversation", "background", "prompt", "context_management")
# What the chat request calls otherwise.
_NAMES = {"messages": "input", "max_completion_tokens": "max_output_tokens", "response_format": "text.format"}


def chat_request(body: ResponseRequest) -> ChatRequest:
    """Raises ApiError naming the parameter of /v1/responses."""
    _refuse(body)
    shared = {name: getattr(body, name) for name in GenerationRequest.__struct_fields__}
    return ChatRequest(
        **{**shared, "response_format": _response_format(body), "stream_options": None},
        messages=_messages(body),
        max_completion_tokens=body.max_output_tokens,
        logprobs=_LOGPROBS in (body.include or ()) or None,
        top_logprobs=body.top_logprobs,
        tools=None if body.tools is None else [_tool(f"tools[{i}]", tool) for i, tool in enumerate(body.tools)],
        tool_choice=_tool_choice(body.tool_choice),
        parallel_tool_calls=body.parallel_tool_calls,
        reasoning_effort=_effort(body),
        chat_template_kwargs=body.chat_template_kwargs,
        prompt_cache_options=body.prompt_cache_options,
    )


def renamed(error: ApiError) -> ApiError:
    """What the chat request says of its parameters, in the words of /v1/responses. Items have other numbers there."""
    for name, shown in _NAMES.items():
        if error.param is not None and error.param.startswith(name):
            words = re.sub(name + r"(\[\d+\])?", shown, error.message)
            return ApiError(error.status, error.code, words, param=shown, type=error.type, headers=error.headers)
    return error


def _refuse(body: ResponseRequest) -> None:
    for name in _STORED:
        if getattr(body, name):
            raise unsupported(name, f"{name} is not supported: this server stores no responses; send the whole input.")
    if body.truncation not in (None, "disabled"):
        raise unsupported("truncation", "truncation is not supported, except 'disabled'.")
    if (body.n or 1) > 1:
        raise unsupported("n", "n is not supported here: a response has one answer.")
    if unknown := [name for name in body.include or () if name != _LOGPROBS and name not in _NOTHING_TO_INCLUDE]:
        raise invalid("include", f"include does not know {unknown[0][:80]!r}.")
    if body.top_logprobs and _LOGPROBS not in (body.include or ()):
        raise invalid("top_logprobs", f"top_logprobs needs include to have {_LOGPROBS!r}.")


def _effort(body: ResponseRequest) -> str | None:
    effort = (body.reasoning or {}).get("effort")
    if effort is not None and not isinstance(effort, str):
        raise invalid("reasoning.effort", "reasoning.effort must be a string, as the model's chat template knows it.")
    return effort


def _messages(body: ResponseRequest) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        messages.append({"role": "user", "content": body.input})
    elif not body.input:
        raise invalid("input", "input is empty; send a text or at least one item.")
    else:
        _add_items(messages, body.input)
    return messages


def _add_items(messages: list[dict[str, Any]], items: list[dict[str, Any]]) -> None:
    """Reasoning goes into the message that comes of the next item, or is nobody's."""
    thoughts: list[str] = []
    for index, item in enumerate(items):
        place = f"input[{index}]"
        if item.get("type") == "reasoning":
            thoughts += _thoughts(place, item)
            continue
        _add_item(messages, place, item)
        answer = messages[-1]
        if thoughts and answer["role"] == "assistant":
            answer["reasoning_content"] = "\n".join([*filter(None, [answer.get("reasoning_content")]), *thoughts])
        thoughts = []


def _thoughts(place: str, item: dict[str, Any]) -> list[str]:
    """Texts of the content; a summary is not what the model wrote, and what is encrypted cannot be read."""
    content = item.get("content")
    parts = content if isinstance(content, list) else [] if content is None else [content]
    texts = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    if len(texts) < len(parts):
        raise invalid(f"{place}.content", f"{place}.content must be a list of parts with a `text` each.")
    return texts


def _add_item(messages: list[dict[str, Any]], place: str, item: dict[str, Any]) -> None:
    """Calls are of one message with each other and with what was said before them, as chat templates expect."""
    kind = item.get("type") or "message"
    if kind == "message":
        messages.append({"role": item.get("role"), "content": item.get("content")})
    elif kind == "function_call":
        call = {
            "id": item.get("call_id"),
            "type": "function",
            "function": {"name": item.get("name"), "arguments": item.get("arguments")},
        }
        if messages and messages[-1]["role"] == "assistant":
            messages[-1].setdefault("tool_calls", []).append(call)
        else:
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
    elif kind == "function_call_output":
        output = item.get("output")
        if not isinstance(output, str | list) or output == []:
            raise invalid(f"{place}.output", f"{place}.output must be a string or a non-empty list of text parts.")
        messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": output})
    else:
        raise unsupported(f"{place}.type", f"{place}.type {str(kind)[:40]!r} is not supported.")


def _tool(place: str, tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise unsupported(
            f"{place}.type", f"{place}.type {str(tool.get('type'))[:40]!r} is not supported; 'function' is."
        )
    if not isinstance(tool.get("name"), str):
        raise invalid(f"{place}.name", f"{place}.name is required.")
    return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}


def _tool_choice(choice: Any) -> Any:
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") == "function":
        return _named(choice)
    if choice.get("type") == "allowed_tools" and isinstance(choice.get("tools"), list):
        allowed = {"mode": choice.get("mode"), "tools": [_named(tool) for tool in choice["tools"]]}
        return {"type": "allowed_tools", "allowed_tools": allowed}
    return choice


def _named(chosen: Any) -> Any:
    """What names a function here, as chat completions have it."""
    return {"type": "function", "function": {"name": chosen.get("name")}} if isinstance(chosen, dict) else chosen


def _response_format(body: ResponseRequest) -> ResponseFormat | None:
    """text.format, whose JSON schema stands flat beside its type."""
    form = (body.text or {}).get("format")
    if form is None:
        return body.response_format
    if isinstance(form, dict) and form.get("type") == "json_schema":
        form = {"type": "json_schema", "json_schema": {key: value for key, value in form.items() if key != "type"}}
    try:
        return msgspec.convert(form, ResponseFormat)
    except msgspec.ValidationError as error:
        raise invalid("text.format", f"text.format cannot be used: {error}.") from None
