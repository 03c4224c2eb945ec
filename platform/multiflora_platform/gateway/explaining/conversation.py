"""A conversation as its template writes it, to find what a place in the prompt belongs to: which message, or the tools.

The template is asked, not read: a thing stands where the text changes when the thing is changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from msgspec.structs import replace

from multiflora_platform.gateway.prompting.messages import template_messages, template_of
from multiflora_platform.gateway.prompting.tokenize import conversation_text
from multiflora_platform.gateway.prompting.tool_choice import offered_tools
from multiflora_platform.gateway.schemas.requests import ChatRequest
from multiflora_platform.text.common_beginning import num_alike
from multiflora_platform.text.errors import ChatTemplateError
from multiflora_platform.text.tokenizer import Tokenizer

# Of Unicode's private use: in no text, and no template treats it in a way of its own.
_MARK = "\ue000"
_RECOGNISED = 32
"""Characters of a message that tell where it begins."""
_ANY_TOOL = {"type": "function", "function": {"name": _MARK, "description": _MARK, "parameters": {"type": "object"}}}


@dataclass
class Conversation:
    """request: checked, for its prompt was made. token_ids: of that prompt."""

    request: ChatRequest
    token_ids: list[int]
    tokenizer: Tokenizer
    in_channels: bool
    """See `ServedModel.writes_channels`."""

    def span(self, token: int) -> tuple[int, int] | None:
        """From which character to which the token goes; None where the prompt is not all of the conversation."""
        ids, places = self.tokenizer.encode_with_places(self.text, bool(self.request.add_special_tokens))
        return places[token] if ids == self.token_ids else None

    def message_at(self, place: int) -> int | None:
        """Which message the character belongs to, with what the template writes before and behind it; None behind the
        last one."""
        low, high = 0, len(self._messages)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._end_of(middle) >= place else (middle + 1, high)
        return low if low < len(self._messages) else None

    def begin_of(self, index: int) -> int:
        """Of a message's own text: its first character; of one without, what the template writes before it."""
        start = self._end_of(index - 1) if index else 0
        content = self._messages[index].get("content")
        if isinstance(content, list):
            content = next((part["text"] for part in content if part.get("text")), None)
        # Templates may strip it.
        found = self.text.find(content.strip()[:_RECOGNISED], start) if content else -1
        return start if found < 0 else found

    def is_in_tools(self, start: int, end: int) -> bool:
        """Whether some of these characters are the tools', or stand where tools would be written first."""
        offered = self.request.tools and self.request.tool_choice != "none"
        other = self._written(tools=None if offered else [_ANY_TOOL])
        if other is None or other == self.text:
            return False
        first = num_alike(self.text, other)
        rest, other_rest = self.text[first:], other[first:]
        last = len(self.text) - num_alike(rest[::-1], other_rest[::-1])
        return first < end and start <= last

    @cached_property
    def _messages(self) -> list[dict[str, Any]]:
        template = template_of(self.request, self.tokenizer)
        return template_messages(self.request.messages, template, self.in_channels)

    @cached_property
    def text(self) -> str:
        tools = offered_tools(self.request.tools)
        return conversation_text(replace(self.request, tools=tools), self._messages, self.tokenizer, self.in_channels)

    def _end_of(self, index: int) -> int:
        """Of a message's own text: the first character that differs when something is added to it."""
        marked = [*self._messages]
        marked[index] = _marked(marked[index])
        written = self._written(messages=marked)
        return len(self.text) if written is None else num_alike(self.text, written)

    def _written(self, messages: list[dict[str, Any]] | None = None, **changes: Any) -> str | None:
        """None where the template refuses it."""
        request = replace(self.request, **({"tools": offered_tools(self.request.tools)} | changes))
        try:
            return conversation_text(request, messages or self._messages, self.tokenizer, self.in_channels)
        except ChatTemplateError:
            return None


def _marked(message: dict[str, Any]) -> dict[str, Any]:
    """With something more at its end."""
    if calls := message.get("tool_calls"):
        function = calls[-1]["function"]
        last = {**calls[-1], "function": {**function, "arguments": {**function["arguments"], _MARK: _MARK}}}
        return {**message, "tool_calls": [*calls[:-1], last]}
    content = message.get("content")
    if isinstance(content, list):
        return {**message, "content": [*content[:-1], {**content[-1], "text": content[-1]["text"] + _MARK}]}
    return {**message, "content": f"{content or ''}{_MARK}"}
