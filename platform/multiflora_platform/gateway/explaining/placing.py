"""What a prompt says and where in its request a token is: for what watches traffic and knows ids alone."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from multiflora_platform.gateway.explaining.conversation import Conversation
from multiflora_platform.gateway.schemas.requests import ChatRequest
from multiflora_platform.groups import Groups, ServedModel
from multiflora_platform.insight.drift.drift import Locate, PromptPlace, PromptReader
from multiflora_platform.insight.kept_prompts import KeptPrompt

_MOST_TOKENS = 8192
"""Of prompts whose templates are asked, which takes the event loop some milliseconds; of longer ones the place is told
from the prompt's beginning."""


def readers(groups: Groups) -> Callable[[str], PromptReader | None]:
    """By the base model's digest; None for one that is not served any more."""

    def reader_of(base_digest: str) -> PromptReader | None:
        group = groups.of_base(base_digest)
        return None if group is None else PromptReader(group.model.tokenizer.decode, _locator(group.model))

    return reader_of


def _locator(model: ServedModel) -> Locate:
    tokenizer = model.tokenizer

    def locate(body: msgspec.Struct, prompt: KeptPrompt, token: int, back: int) -> PromptPlace:
        if isinstance(body, ChatRequest) and len(prompt.ids) <= _MOST_TOKENS:
            conversation = Conversation(body, prompt.ids.tolist(), tokenizer, model.writes_channels)
            if (span := conversation.span(token)) is not None:
                return _in_chat(conversation, span[0] - back)
        return PromptPlace(None, None, len(tokenizer.decode(prompt.ids[:token])) - back)

    return locate


def _in_chat(conversation: Conversation, character: int) -> PromptPlace:
    if conversation.request.tools and conversation.is_in_tools(character, character + 1):
        return PromptPlace(None, None, character)
    message = conversation.message_at(character)
    if message is None:
        return PromptPlace(None, None, character)
    role = str(conversation.request.messages[message].get("role"))
    return PromptPlace(message, role, max(0, character - conversation.begin_of(message)))
