"""`system` and `messages` of /v1/messages as a chat's messages: turns merged, blocks to parts, results behind calls."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from multiflora_platform.gateway.schemas.decoding import wrong_value
from multiflora_platform.gateway.schemas.messages_requests import (
    Block,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from multiflora_platform.web import typed_json
from multiflora_platform.web.openai_errors import invalid, unsupported

_MAY_HOLD: dict[str, tuple[str, ...]] = {
    "user": ("text", "tool_result"),
    "assistant": ("text", "tool_use", "thinking", "redacted_thinking"),
    "system": ("text",),
}
# A coding agent's note to its provider, another one with each request: it would lose the whole cached prompt behind it.
_BILLING = re.compile(r"^x-anthropic-billing-header:[^\n]*\n?", re.M)
Message = dict[str, Any]


@dataclass(frozen=True)
class _Turn:
    """Messages of one role in a row, which Anthropic's API takes as one."""

    role: str
    place: str
    """Of its first message."""
    blocks: list[tuple[str, Block]]
    """Each with its place."""

    def texts(self) -> list[str]:
        return [block.text for _, block in self.blocks if isinstance(block, TextBlock)]


def chat_messages(system: str | list[dict[str, Any]] | None, messages: Sequence[dict[str, Any]]) -> list[Message]:
    """Raises ApiError naming the place in the request. A last message of the assistant is one to be continued."""
    turns = _turns(messages)
    chat = _system(_texts("system", system))
    called: dict[str, str] = {}
    for turn in turns:
        if turn.role == "user":
            chat += _user(turn, called)
            continue
        _require_results(called)
        called = _calls(turn) if turn.role == "assistant" else {}
        chat += _assistant(turn, called) if turn.role == "assistant" else _system(turn.texts())
    _require_results(called)
    if turns[-1].role == "assistant":
        _check_prefill(turns[-1])
    return chat


def _turns(messages: Sequence[dict[str, Any]]) -> list[_Turn]:
    turns: list[_Turn] = []
    for index, message in enumerate(messages):
        place, role = f"messages[{index}]", message.get("role")
        if not isinstance(role, str) or role not in _MAY_HOLD:
            raise invalid(f"{place}.role", f"{place}.role must be user or assistant; a system prompt goes into system.")
        blocks = _blocks(f"{place}.content", message.get("content"), role)
        if turns and turns[-1].role == role:
            turns[-1].blocks.extend(blocks)
        else:
            turns.append(_Turn(role, place, blocks))
    if turns and not turns[-1].blocks:  # the assistant's: there is nothing to be continued
        turns.pop()
    if not turns:
        raise invalid("messages", "messages is empty; send at least one message.")
    return turns


def _blocks(place: str, content: Any, role: str) -> list[tuple[str, Block]]:
    """Those that hold anything. The assistant's may all be empty, as an earlier answer of this server's was."""
    blocks: list[tuple[str, Block]]
    if isinstance(content, str) or content == []:
        blocks = [(place, TextBlock(content or ""))]
    elif isinstance(content, list):
        places = [f"{place}[{index}]" for index in range(len(content))]
        blocks = [(at, _block(at, block, _MAY_HOLD[role])) for at, block in zip(places, content, strict=True)]
    else:
        raise invalid(place, f"{place} must be a string or a list of content blocks.")
    empty = {at: None for at, block in blocks if isinstance(block, TextBlock) and not block.text}
    if empty and role != "assistant":
        first = next(iter(empty))
        param = place if first == place else f"{first}.text"
        raise invalid(param, f"{param} is empty; leave it out. Only a message of the assistant may be empty.")
    return [(at, block) for at, block in blocks if at not in empty]


def _block(place: str, block: Any, allowed: tuple[str, ...]) -> Block:
    kind = block.get("type") if isinstance(block, dict) else None
    if not isinstance(kind, str):
        raise invalid(place, f"{place} must be a content block, an object with a type.")
    if kind not in allowed:
        raise unsupported(f"{place}.type", f"{place}.type {kind[:40]!r} is not supported here; {_listed(allowed)}.")
    try:
        read: Block = msgspec.convert(block, Block)
    except msgspec.ValidationError as error:
        inner, reason = typed_json.place_of(str(error))
        raise wrong_value(f"{place}.{inner}" if inner else place, reason) from None
    return read


def _listed(kinds: tuple[str, ...]) -> str:
    return f"{' and '.join(kinds)} {'is' if len(kinds) == 1 else 'are'}"


def _texts(place: str, content: str | list[dict[str, Any]] | None) -> list[str]:
    """Of content that may only be text, or be left out."""
    blocks = _blocks(place, content, "system") if content else []
    return [block.text for _, block in blocks if isinstance(block, TextBlock)]


def _system(texts: Sequence[str]) -> list[Message]:
    kept = [text for text in (_BILLING.sub("", text) for text in texts) if text]
    return [{"role": "system", "content": _parts(kept)}] if kept else []


def _parts(texts: list[str]) -> str | list[dict[str, Any]]:
    """One text is a string, so that it reads the same from a string and from a block."""
    return texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts]


def _user(turn: _Turn, called: dict[str, str]) -> list[Message]:
    """Results come first, right behind their calls, as templates expect. called: takes out those that are answered."""
    chat: list[Message] = []
    for place, block in turn.blocks:
        if not isinstance(block, ToolResultBlock):
            continue
        if called.pop(block.tool_use_id, None) is None:
            param = f"{place}.tool_use_id"
            what = (
                f"{param} {block.tool_use_id[:80]!r} answers no tool_use block of the message before it, or one again."
            )
            raise invalid(param, what)
        chat.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": _result(place, block)})
    texts = turn.texts()
    return chat + ([{"role": "user", "content": _parts(texts)}] if texts else [])


def _result(place: str, block: ToolResultBlock) -> str:
    """Chat templates know no errors of tools: the text says it."""
    text = "\n".join(_texts(f"{place}.content", block.content))
    return f"Error: {text}" if block.is_error else text


def _calls(turn: _Turn) -> dict[str, str]:
    """The place of each call, by its id."""
    called: dict[str, str] = {}
    for place, block in turn.blocks:
        if isinstance(block, ToolUseBlock):
            if block.id in called:
                raise invalid(f"{place}.id", f"{place}.id {block.id[:80]!r} is that of another tool_use block.")
            called[block.id] = place
    return called


def _require_results(called: dict[str, str]) -> None:
    for id, place in called.items():
        raise invalid(place, f"{place}: the tool_use {id[:80]!r} has no tool_result in the message after it.")


def _assistant(turn: _Turn, called: dict[str, str]) -> list[Message]:
    texts = turn.texts()
    message: Message = {"role": "assistant", "content": _parts(texts) if texts else None if called else ""}
    if called:
        uses = [block for _, block in turn.blocks if isinstance(block, ToolUseBlock)]
        message["tool_calls"] = [
            {"id": use.id, "type": "function", "function": {"name": use.name, "arguments": use.input}} for use in uses
        ]
    if thoughts := [block.thinking for _, block in turn.blocks if isinstance(block, ThinkingBlock) and block.thinking]:
        message["reasoning_content"] = "\n".join(thoughts)
    return [message]


def _check_prefill(turn: _Turn) -> None:
    place, last = turn.blocks[-1]
    if isinstance(last, TextBlock) and last.text != last.text.rstrip():
        raise invalid(place, f"{place}: the final assistant content cannot end with trailing whitespace.")
