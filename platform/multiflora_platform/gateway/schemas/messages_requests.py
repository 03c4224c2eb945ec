"""The bodies of /v1/messages as msgspec reads them, and the blocks that messages are made of: Anthropic's shapes.

Blocks are read one by one (messages_api/conversation.py), so that what is wrong with one is told with its place.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from multiflora_platform.gateway.schemas.requests import GenerationRequest


class MessageMetadata(msgspec.Struct, frozen=True):
    """user_id: by whom a split of traffic is sticky."""

    user_id: str | None = None


class Thinking(msgspec.Struct, frozen=True):
    """What becomes of reasoning. budget_tokens is accepted and sets no limit of its own; max_tokens covers both."""

    type: Literal["enabled", "adaptive", "between_tools", "disabled"]
    budget_tokens: int | None = None
    display: Literal["summarized", "omitted"] | None = None

    @property
    def is_shown(self) -> bool:
        return self.type != "disabled" and self.display != "omitted"


class ToolChoice(msgspec.Struct, frozen=True):
    """name: of the tool, for the type `tool`."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Diagnostics(msgspec.Struct, frozen=True):
    """previous_message_id: of the earlier message that this request is to be compared with; None: of none, yet."""

    previous_message_id: str | None = None


class OutputFormat(msgspec.Struct, frozen=True):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, frozen=True):
    """format: what the answer follows. effort is accepted and ignored."""

    format: OutputFormat | None = None


class CountTokensRequest(GenerationRequest, kw_only=True, frozen=True):
    """What /v1/messages and its count_tokens share: Anthropic's fields, then those of every generation. tools: their
    `input_schema` is for the template and for grammars. cache_control: marks the whole prompt; in a block, what stands
    up to its end. output_format: what older clients of Anthropic's send in place of output_config.format."""

    messages: list[dict[str, Any]]
    system: str | list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    cache_control: Any = None
    chat_template_kwargs: dict[str, Any] | None = None


class MessagesRequest(CountTokensRequest, kw_only=True, frozen=True):
    """max_tokens is required here. service_tier, container and other fields that only Anthropic's own servers know are
    ignored; mcp_servers are refused, because their tools would be missing."""

    stop_sequences: list[str] | None = None
    metadata: MessageMetadata | None = None
    diagnostics: Diagnostics | None = None
    mcp_servers: Any = None


class TextBlock(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    text: str


class ThinkingBlock(msgspec.Struct, frozen=True, tag_field="type", tag="thinking"):
    thinking: str


class RedactedThinkingBlock(msgspec.Struct, frozen=True, tag_field="type", tag="redacted_thinking"):
    """Another server's, which it alone can read."""


class ToolUseBlock(msgspec.Struct, frozen=True, tag_field="type", tag="tool_use"):
    """input: an object, or whatever a client made of a call that was cut off."""

    id: str
    name: str
    input: Any = None


class ToolResultBlock(msgspec.Struct, frozen=True, tag_field="type", tag="tool_result"):
    """content: of text blocks."""

    tool_use_id: str
    content: str | list[dict[str, Any]] | None = None
    is_error: bool | None = None


Block = TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock
