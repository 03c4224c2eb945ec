"""`"context": name` in a request: the context's text stands before the request's own."""

from __future__ import annotations

from functools import partial
from typing import Any

from msgspec.structs import replace

from multiflora_platform.auth.principals import Principal
from multiflora_platform.contexts.book import ContextBook
from multiflora_platform.contexts.content import ContextDefinition
from multiflora_platform.contexts.context_use import ContextUse
from multiflora_platform.gateway.prompting.messages import template_messages
from multiflora_platform.gateway.prompting.tokenize import MAX_PROMPTS, Prompt
from multiflora_platform.gateway.schemas.requests import ChatRequest, CompletionRequest
from multiflora_platform.text.off_loop import off_loop
from multiflora_platform.text.tokenizer import Tokenizer
from multiflora_platform.web.openai_errors import ApiError, invalid


async def chat_with_context(
    book: ContextBook, principal: Principal, body: ChatRequest, size: int
) -> tuple[ChatRequest, int]:
    """The request as if it had been sent whole, and its size in bytes. Raises ApiError."""
    if body.context is None:
        return body, size
    definition = _definition(book, principal, body.context)
    content = definition.content
    if not content.is_chat:
        raise invalid("context", f"The context {body.context!r} is a prompt, for /v1/completions; this is a chat.")
    # Before the context's messages stand before them: what is wrong with one is told by its own number.
    await off_loop(size, partial(template_messages, body.messages, None, in_channels=False))
    whole = replace(
        body,
        messages=[*(content.messages or ()), *body.messages],
        tools=content.tools if body.tools is None else body.tools,
        documents=content.documents if body.documents is None else body.documents,
    )
    return whole, size + definition.size


async def completion_with_context(
    book: ContextBook, principal: Principal, body: CompletionRequest, size: int, tokenizer: Tokenizer
) -> tuple[CompletionRequest, int]:
    """As chat_with_context. Raises ApiError."""
    if body.context is None:
        return body, size
    content = _definition(book, principal, body.context).content
    if content.prompt is None:
        raise invalid("context", f"The context {body.context!r} is a conversation, for chats; this is a completion.")
    before, ids = content.prompt, []
    if not isinstance(body.prompt, str) and any(not isinstance(part, str) for part in body.prompt):
        special = body.add_special_tokens is not False
        ids = await off_loop(len(before), partial(tokenizer.encode, before, special))
    return replace(body, prompt=_joined(before, ids, body.prompt)), size + len(before)


def _joined(before: str, ids: list[int], prompt: Prompt) -> Prompt:
    """ids: of the text before, where one of the prompts is token ids."""
    if isinstance(prompt, str):
        return before + prompt
    if prompt and all(isinstance(part, int) for part in prompt):
        return [*ids, *prompt]
    if len(prompt) > MAX_PROMPTS:
        return prompt  # refused with its number where prompts are split, before the text is there so often
    joined: list[Any] = [before + part if isinstance(part, str) else _after(ids, part) for part in prompt]
    return joined


def _after(ids: list[int], part: Any) -> Any:
    """What is no list is refused later, by its place."""
    return [*ids, *part] if isinstance(part, list) else part


def _definition(book: ContextBook, principal: Principal, name: str) -> ContextDefinition:
    """Counts the hit. Raises ApiError."""
    entry = book.find((principal.tenant or "", name))
    if entry is None:
        message = f"There is no context {name[:80]!r}; GET /api/v1/contexts lists them."
        raise ApiError(404, "context_not_found", message, param="context", type="invalid_request_error")
    book.count(entry.id, ContextUse(hits=1))
    return entry.definition
