"""The output of one response of /v1/responses as it grows: reasoning, a message, function calls, each an item in turn.

Knows OpenAI's items and the events that tell of them; not how events are numbered and written.
"""

from __future__ import annotations

import uuid
from typing import Any

from multiflora_platform.gateway.schemas.answers import ChatTokenLogprob
from multiflora_platform.messages.pieces import (
    CallArguments,
    CallBegin,
    Content,
    Piece,
    Reasoning,
)

Item = dict[str, Any]
Event = tuple[str, dict[str, Any]]


class OutputItems:
    """items: in their order; the last one may be open. id: what the ids of items are made of."""

    def __init__(self, id: str) -> None:
        self.items: list[Item] = []
        self._id = id
        self._is_open = False

    @property
    def is_in_message(self) -> bool:
        return self._is_open and self.items[-1]["type"] == "message"

    def add(self, piece: Piece, logprobs: list[ChatTokenLogprob]) -> list[Event]:
        """The events that tell of it. logprobs: of the tokens that came with it, for content."""
        match piece:
            case Content(text):
                events = self._open("message")
                part = self.items[-1]["content"][0]
                part["text"] += text
                part["logprobs"] += logprobs
                return [*events, self._event("output_text.delta", content_index=0, delta=text, logprobs=logprobs)]
            case Reasoning(text):
                events = self._open("reasoning")
                self.items[-1]["content"][0]["text"] += text
                return [*events, self._event("reasoning_text.delta", content_index=0, delta=text)]
            case CallBegin(_, name):
                return self.close() + self._begin(_call(self._id, len(self.items), name))
            case CallArguments(_, text):
                self.items[-1]["arguments"] += text
                return [self._event("function_call_arguments.delta", delta=text)]

    def finish(self, status: str) -> list[Event]:
        """At the end. status: of the last item. An answer of nothing is an empty message."""
        events = self._open("message") if not self.items else []
        return events + self.close(status)

    def close(self, status: str = "completed") -> list[Event]:
        if not self._is_open:
            return []
        self._is_open = False
        item = self.items[-1]
        item["status"] = status
        events = self._ended(item)
        return [*events, ("output_item.done", {"output_index": len(self.items) - 1, "item": item})]

    def _open(self, kind: str) -> list[Event]:
        """An open item of that kind, begun if it is not there."""
        if self._is_open and self.items[-1]["type"] == kind:
            return []
        item = _message(self._id, len(self.items)) if kind == "message" else _reasoning(self._id, len(self.items))
        return self.close() + self._begin(item)

    def _begin(self, item: Item) -> list[Event]:
        self.items.append(item)
        self._is_open = True
        part = (item.get("content") or [None])[0]
        shown = {**item, "content": []} if part else dict(item)
        events: list[Event] = [("output_item.added", {"output_index": len(self.items) - 1, "item": shown})]
        if part:
            events.append(self._event("content_part.added", content_index=0, part={**part}))
        return events

    def _ended(self, item: Item) -> list[Event]:
        if item["type"] == "function_call":
            return [self._event("function_call_arguments.done", name=item["name"], arguments=item["arguments"])]
        part = item["content"][0]
        done = self._event("content_part.done", content_index=0, part=part)
        if item["type"] == "reasoning":
            return [self._event("reasoning_text.done", content_index=0, text=part["text"]), done]
        text = self._event("output_text.done", content_index=0, text=part["text"], logprobs=part["logprobs"])
        return [text, done]

    def _event(self, event: str, /, **fields: Any) -> Event:
        return event, {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1, **fields}


def _message(id: str, index: int) -> Item:
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    return {**_item("msg", "message", id, index), "role": "assistant", "content": [part]}


def _reasoning(id: str, index: int) -> Item:
    return {**_item("rs", "reasoning", id, index), "summary": [], "content": [{"type": "reasoning_text", "text": ""}]}


def _call(id: str, index: int, name: str) -> Item:
    call_id = f"call_{uuid.uuid4().hex[:24]}"
    return {**_item("fc", "function_call", id, index), "call_id": call_id, "name": name, "arguments": ""}


def _item(prefix: str, kind: str, id: str, index: int) -> Item:
    number = f"_{index}" if index else ""
    return {"id": f"{prefix}_{id}{number}", "type": kind, "status": "in_progress"}
