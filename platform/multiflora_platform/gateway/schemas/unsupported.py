"""Parameters that this server does not serve and that would change the answer: refused by name, never ignored."""

from __future__ import annotations

from multiflora_platform.gateway.schemas.requests import ChatRequest, CompletionRequest, GenerationRequest
from multiflora_platform.web.openai_errors import unsupported

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
