"""Documents with `"reuse": "approximate"`: where they stand in the prompt, as tokens of their own.

A document's tokens must not depend on what stands around it, or no other prompt would have the same ones: the text
before, each document and the text behind are tokenised apart.
"""

from __future__ import annotations

import math
import secrets
from functools import partial
from typing import Any

from msgspec.structs import replace

from multiflora_engine.protocol.requests import DocumentSpan
from multiflora_platform.gateway.prompting.messages import template_messages, template_of
from multiflora_platform.gateway.prompting.tokenize import PromptRoom, conversation_text
from multiflora_platform.gateway.schemas.requests import ChatRequest
from multiflora_platform.groups import ServedModel
from multiflora_platform.text.errors import ChatTemplateError, TooManyTokens
from multiflora_platform.text.message_parts import asks_for_reuse
from multiflora_platform.text.off_loop import off_loop
from multiflora_platform.web.openai_errors import invalid

MOST_DOCUMENTS = 64
DEFAULT_SHARE = 0.1
"""Of a document's tokens, those that are computed where it stands."""
_PLACES = "The model's chat template does not write documents as they are; send them without reuse."


async def prompt_of_documents(
    request: ChatRequest, model: ServedModel, room: PromptRoom, size: int
) -> tuple[list[int], list[DocumentSpan]]:
    """The conversation as token ids, and which of them are documents to be reused. size: of the request, in bytes.
    Raises ApiError."""
    share = DEFAULT_SHARE if request.recompute_share is None else request.recompute_share
    if not 0 <= share <= 1:
        raise invalid("recompute_share", f"recompute_share must be from 0 to 1, got {share}.")
    if request.truncate_prompt_tokens is not None:
        raise invalid("truncate_prompt_tokens", "A prompt with reused documents cannot be truncated; leave it out.")
    pieces = await off_loop(2 * size, partial(_pieces, request, model))
    try:
        encoded = await off_loop(2 * size, partial(_encoded, pieces, bool(request.add_special_tokens), model, room))
    except TooManyTokens as error:
        raise room.error("messages", error) from None
    ids: list[int] = []
    spans: list[DocumentSpan] = []
    for number, piece in enumerate(encoded):
        start = len(ids)
        ids += piece
        if number % 2:  # texts and documents take turns
            spans.append(DocumentSpan(start, len(ids), math.ceil(share * len(piece))))
    return ids, [span for span in spans if span.start < span.stop]


def _pieces(request: ChatRequest, model: ServedModel) -> list[str]:
    """The conversation's text, cut where documents begin and end: text, document, text, and so on. Raises ApiError."""
    texts: dict[str, str] = {}
    marked = _with_places(request, texts)
    try:
        with_places, whole = (_text(chat, model) for chat in (marked, request))
    except ChatTemplateError as error:
        raise invalid("messages", str(error)) from None
    at = {with_places.find(place): place for place in texts}
    if -1 in at or any(with_places.count(place) != 1 for place in texts):
        raise invalid("messages", _PLACES)
    pieces, end = [], 0
    for start in sorted(at):
        pieces += [with_places[end:start], texts[at[start]]]
        end = start + len(at[start])
    pieces.append(with_places[end:])
    if "".join(pieces) != whole:
        raise invalid("messages", _PLACES)
    return pieces


def _text(request: ChatRequest, model: ServedModel) -> str:
    messages = template_messages(request.messages, template_of(request, model.tokenizer), model.writes_channels)
    return conversation_text(request, messages, model.tokenizer, model.writes_channels)


def _encoded(pieces: list[str], special: bool, model: ServedModel, room: PromptRoom) -> list[list[int]]:
    """Raises ApiError for a tokenizer that writes a text's pieces otherwise than the text, TooManyTokens."""
    tokenizer = model.tokenizer
    parts = [tokenizer.encode(piece, special and not at, most=room.most) for at, piece in enumerate(pieces)]
    together = [token_id for part in parts for token_id in part]
    if len(together) > room.most:
        raise TooManyTokens(len(together), is_exact=True)
    if (reason := tokenizer.beyond(together, model.vocab_size)) is not None:
        raise invalid("messages", f"messages {reason}.")
    if tokenizer.decode(together) != tokenizer.decode(tokenizer.encode("".join(pieces), special)):
        raise invalid("messages", "The model's tokenizer does not write documents apart; send them without reuse.")
    return parts


def _with_places(request: ChatRequest, texts: dict[str, str]) -> ChatRequest:
    """With a place in the stead of each document that is to be reused; texts: gets what belongs there."""

    def put(document: dict[str, Any], param: str) -> dict[str, Any]:
        if not asks_for_reuse(document):
            return document
        if document["reuse"] != "approximate":
            raise invalid(f"{param}.reuse", f'{param}.reuse must be "approximate" or "exact".')
        if not isinstance(text := document.get("text"), str) or not text:
            raise invalid(f"{param}.text", f"{param}.text must be a text that is not empty.")
        if len(texts) == MOST_DOCUMENTS:
            raise invalid(param, f"At most {MOST_DOCUMENTS} documents of a request are reused.")
        place = f"document{secrets.token_hex(16)}"
        texts[place] = text
        return {**document, "text": place}

    messages = [_with_parts(f"messages[{at}]", message, put) for at, message in enumerate(request.messages)]
    documents = request.documents
    if documents is not None:
        documents = [put(document, f"documents[{at}]") for at, document in enumerate(documents)]
    return replace(request, messages=messages, documents=documents)


def _with_parts(param: str, message: dict[str, Any], change: Any) -> dict[str, Any]:
    """change: of a document, and what it is called in the request."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    parts = [
        change(part, f"{param}.content[{at}]") if isinstance(part, dict) else part for at, part in enumerate(content)
    ]
    return {**message, "content": parts}
