"""The content of one message as it grows: thinking, text, tool_use, a block each, and the events that tell of them.

Knows Anthropic's blocks and their events; not what stands around them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from multiflora_platform.gateway.prompting.messages import call_arguments
from multiflora_platform.messages.pieces import CallArguments, CallBegin, Content, Piece, Reasoning

Event = tuple[str, dict[str, Any]]


class MessageContent:
    """shows_thinking: reasoning is given as thinking blocks, otherwise left out. new_id: makes the ids of calls."""

    def __init__(self, shows_thinking: bool, new_id: Callable[[], str]) -> None:
        self.blocks: list[dict[str, Any]] = []
        """In their order; the last one may be open."""
        self._shows_thinking = shows_thinking
        self._new_id = new_id
        self._is_open = False
        # Of the open tool_use, as the model has written them so far.
        self._arguments = ""

    @property
    def has_calls(self) -> bool:
        return any(block["type"] == "tool_use" for block in self.blocks)

    def add(self, piece: Piece) -> list[Event]:
        """The events that tell of it."""
        match piece:
            case Content(text):
                events = self._open({"type": "text", "text": ""})
                self.blocks[-1]["text"] += text
                return [*events, self._delta("text_delta", text=text)]
            case Reasoning(text):
                return self._think(text) if self._shows_thinking else []
            case CallBegin(_, name):
                call = {"type": "tool_use", "id": self._new_id(), "name": name, "input": {}}
                return [*self.close(), *self._begin(call), self._delta("input_json_delta", partial_json="")]
            case CallArguments(_, text):
                self._arguments += text
                return [self._delta("input_json_delta", partial_json=text)]

    def close(self) -> list[Event]:
        """Of the open block, if there is one."""
        if not self._is_open:
            return []
        self._is_open = False
        block, events = self.blocks[-1], []
        if block["type"] == "tool_use":
            block["input"], self._arguments = call_arguments(self._arguments), ""
        if block["type"] == "thinking":
            block["signature"] = _signature(block["thinking"])
            events.append(self._delta("signature_delta", signature=block["signature"]))
        return [*events, ("content_block_stop", {"index": len(self.blocks) - 1})]

    def _think(self, text: str) -> list[Event]:
        events = self._open({"type": "thinking", "thinking": "", "signature": ""})
        self.blocks[-1]["thinking"] += text
        return [*events, self._delta("thinking_delta", thinking=text)]

    def _open(self, block: dict[str, Any]) -> list[Event]:
        """An open block of that type, begun if it is not there."""
        if self._is_open and self.blocks[-1]["type"] == block["type"]:
            return []
        return self.close() + self._begin(block)

    def _begin(self, block: dict[str, Any]) -> list[Event]:
        self.blocks.append(block)
        self._is_open = True
        begun: Event = ("content_block_start", {"index": len(self.blocks) - 1, "content_block": {**block}})
        return [begun, ("ping", {})] if len(self.blocks) == 1 else [begun]

    def _delta(self, kind: str, **fields: str) -> Event:
        return "content_block_delta", {"index": len(self.blocks) - 1, "delta": {"type": kind, **fields}}


def _signature(thinking: str) -> str:
    """Clients drop thinking without one when they send a conversation again; this server never asks for it."""
    return hashlib.sha256(thinking.encode()).hexdigest()
