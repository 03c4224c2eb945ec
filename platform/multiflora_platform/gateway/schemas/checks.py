"""What a body may not ask for, whichever model it names: refused by name, never ignored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from multiflora_engine.protocol.sampling_ranges import MAX_LOGPROBS
from multiflora_platform.gateway.schemas.requests import ChatRequest, CompletionRequest, GenerationRequest
from multiflora_platform.text.message_parts import asks_for_reuse
from multiflora_platform.web.openai_errors import invalid, unsupported

_NEVER = ("logits_processors",)
_NEVER_IN_CHAT = ("functions", "function_call", "audio", "web_search_options")


def refuse_unsupported(request: GenerationRequest) -> None:
    """Raises ApiError 400 unsupported_parameter."""
    _refuse_given(request, _NEVER)
    refuse_chat_template(request.chat_template)
    if isinstance(request, CompletionRequest):
        _refuse_given(request, ("suffix", "prompt_embeds"))
    if isinstance(request, ChatRequest):
        _refuse_in_chat(request)


def check_streaming(body: GenerationRequest) -> None:
    """Raises ApiError for what only a whole answer can give."""
    if body.stream and body.best_of is not None and body.best_of > (body.n or 1):
        raise invalid("best_of", "best_of above n cannot be streamed; the best answer is known only at the end.")
    if body.stream and body.prompt_logprobs is not None:
        raise invalid("prompt_logprobs", "prompt_logprobs cannot be streamed; set stream to false.")


def num_top_logprobs(body: ChatRequest) -> int | None:
    """Alternatives to show beside each token; None when no log-probabilities are asked for. Raises ApiError."""
    if body.top_logprobs is not None:
        if not 0 <= body.top_logprobs <= MAX_LOGPROBS:
            raise invalid("top_logprobs", f"top_logprobs must be from 0 to {MAX_LOGPROBS}, got {body.top_logprobs}.")
        if body.top_logprobs and not body.logprobs:
            raise invalid("top_logprobs", "top_logprobs needs logprobs to be true.")
    return (body.top_logprobs or 0) if body.logprobs else None


def marks_beginnings(body: ChatRequest, parts: Iterable[Mapping[str, Any]]) -> bool:
    """Whether it may mark beginnings of its prompt that are to be held. parts: of all its messages."""
    return body.prompt_cache_options is not None or any("prompt_cache_breakpoint" in part for part in parts)


def reuses_documents(body: ChatRequest, parts: Iterable[dict[str, Any]]) -> bool:
    """Whether the KV of any document, beside the messages or in them, may be taken from elsewhere. parts: as above."""
    return any(map(asks_for_reuse, chain(body.documents or (), parts)))


def refuse_chat_template(value: object) -> None:
    if value is not None:
        raise unsupported("chat_template", "chat_template in a request is refused; the model's own template is used.")


def _refuse_in_chat(request: ChatRequest) -> None:
    _refuse_given(request, _NEVER_IN_CHAT)
    if request.modalities and request.modalities != ["text"]:
        raise unsupported("modalities", "modalities is not supported, except ['text'].")


def _refuse_given(request: GenerationRequest, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(request, name) not in (None, False, "", [], {}, "none"):
            raise unsupported(name, f"{name} is not supported yet; leave it out.")
