"""The bodies of /v1/messages and count_tokens, and the chat request that they amount to; its complaints in their words.

What only Anthropic's own servers have (images, server tools, MCP connectors) is refused by name.
"""

from __future__ import annotations

import re
from typing import Any

from multiflora_platform.gateway.messages_api.conversation import chat_messages
from multiflora_platform.gateway.prompting.sampling import ContextExceeded
from multiflora_platform.gateway.schemas.messages_requests import CountTokensRequest, MessagesRequest, ToolChoice
from multiflora_platform.gateway.schemas.requests import ChatRequest, GenerationRequest, JsonSchema, ResponseFormat
from multiflora_platform.web.openai_errors import ApiError, invalid, unsupported

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
# What the chat request calls otherwise, or numbers otherwise.
_NAMES = (
    (re.compile(r"\bmessages\[\d+\](\.[\w\[\]]+)*"), "messages"),
    (re.compile(r"(\btools\[\d+\])\.function\.parameters"), r"\1.input_schema"),
    (re.compile(r"(\btools\[\d+\])\.function"), r"\1"),
    (re.compile(r"\bresponse_format\b"), "output_config.format"),
    (re.compile(r"\bstop\b(?=$| (holds|must|cannot)|\[)"), "stop_sequences"),
)


def chat_request(body: CountTokensRequest) -> ChatRequest:
    """Raises ApiError naming the parameter."""
    _refuse(body)
    shared = {name: getattr(body, name) for name in GenerationRequest.__struct_fields__}
    own = _answering(body) if isinstance(body, MessagesRequest) else {}
    choice = body.tool_choice
    messages = chat_messages(body.system, body.messages)
    # Templates call it either way.
    thinking = dict.fromkeys(("enable_thinking", "thinking"), _thinks(body))
    return ChatRequest(
        **{**shared, "response_format": _response_format(body), "stream_options": None, "prompt_logprobs": None, **own},
        messages=messages,
        tools=None if body.tools is None else [_tool(f"tools[{i}]", tool) for i, tool in enumerate(body.tools)],
        tool_choice=_tool_choice(choice),
        parallel_tool_calls=False if choice is not None and choice.disable_parallel_tool_use else None,
        continue_final_message=messages[-1]["role"] == "assistant",
        chat_template_kwargs={**thinking, **(body.chat_template_kwargs or {})},
    )


def renamed(error: ApiError) -> ApiError:
    """What the chat request says of its parameters, in the words of /v1/messages; agents shorten a conversation, or ask
    for a shorter answer, where they read Anthropic's own words for one that is too long."""
    if isinstance(error, ContextExceeded):
        return ApiError(error.status, error.code, _too_long(error), param=error.param)
    words, param = error.message, error.param
    for name, shown in _NAMES:
        words = name.sub(shown, words)
        param = None if param is None else name.sub(shown, param)
    return ApiError(error.status, error.code, words, param=param, type=error.type, headers=error.headers)


def _too_long(error: ContextExceeded) -> str:
    if error.asked is None:
        return f"prompt is too long: {error.count} tokens > {error.limit} maximum"
    exceeded = f"input length and `max_tokens` exceed context limit: {error.count} + {error.asked} > {error.limit}"
    return f"{exceeded}, decrease input length or `max_tokens` and try again"


def _refuse(body: CountTokensRequest) -> None:
    for name in ("n", "best_of"):
        if getattr(body, name) not in (None, 1):
            raise unsupported(name, f"{name} is not supported by /v1/messages: a message is one answer.")
    if body.use_beam_search:
        raise unsupported("use_beam_search", "use_beam_search is not supported by /v1/messages.")
    if isinstance(body, MessagesRequest) and body.mcp_servers:
        raise unsupported("mcp_servers", "mcp_servers is not supported: clients call tools, and send their results.")
    if isinstance(body, MessagesRequest) and body.max_tokens is None:
        raise invalid("max_tokens", "max_tokens is required.")


def _thinks(body: CountTokensRequest) -> bool:
    """Whether the model is to think: as with Anthropic's API, it has to be asked."""
    return body.thinking is not None and body.thinking.type != "disabled"


def _answering(body: MessagesRequest) -> dict[str, Any]:
    user = body.user if body.metadata is None else body.metadata.user_id
    return {"user": user, "stop": body.stop if body.stop_sequences is None else body.stop_sequences}


def _tool(place: str, tool: dict[str, Any]) -> dict[str, Any]:
    kind = tool.get("type") or "custom"
    if kind != "custom":
        said = f"{place}.type {str(kind)[:40]!r} is not supported: this server has no tools of its own"
        raise unsupported(f"{place}.type", f"{said}; describe it with name and input_schema, and answer its calls.")
    if not isinstance(tool.get("input_schema"), dict):
        raise invalid(f"{place}.input_schema", f"{place}.input_schema is required, a JSON schema.")
    function = {"name": tool.get("name"), "description": tool.get("description"), "parameters": tool["input_schema"]}
    return {"type": "function", "function": {**function, "strict": True} if tool.get("strict") is True else function}


def _tool_choice(choice: ToolChoice | None) -> Any:
    if choice is None:
        return None
    if choice.type != "tool":
        return _CHOICES[choice.type]
    if not choice.name:
        raise invalid("tool_choice.name", "tool_choice.name is required with the type 'tool'.")
    return {"type": "function", "function": {"name": choice.name}}


def _response_format(body: CountTokensRequest) -> ResponseFormat | None:
    form = body.output_format if body.output_config is None else body.output_config.format or body.output_format
    if form is None:
        return body.response_format
    return ResponseFormat("json_schema", JsonSchema(schema=form.schema, strict=True))
