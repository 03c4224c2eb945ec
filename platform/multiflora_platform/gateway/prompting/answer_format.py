"""What a chat answer may hold and must look like: tools, structured output and reasoning brought together."""

from __future__ import annotations

from dataclasses import dataclass

from multiflora_platform.gateway.prompting.structured_output import requested_structure
from multiflora_platform.gateway.prompting.tool_choice import ToolUse
from multiflora_platform.gateway.schemas.requests import ChatRequest
from multiflora_platform.messages.message import MessageFormat
from multiflora_platform.messages.reasoning import (
    ReasoningFormat,
    ReasoningState,
    state_after,
    with_reasoning,
)
from multiflora_platform.services import ServedModel
from multiflora_platform.structured.formats import Structure, either

# Template and markers end a prompt with a few tokens; what stands before is the conversation.
_PROMPT_END_TOKENS = 32


@dataclass(frozen=True)
class AnswerFormat:
    """message: how to read the answer. structure: (the parameter that asks for it, what the answer must follow).

    shows_special_tokens: the markers are special tokens, which have to stay in the text to be found.
    """

    message: MessageFormat
    structure: tuple[str, Structure] | None
    shows_special_tokens: bool


def answer_format(body: ChatRequest, model: ServedModel, prompt_ids: list[int], use: ToolUse | None) -> AnswerFormat:
    """Raises ApiError."""
    reasoning = _reasoning(model, prompt_ids)
    structure = _with_tools(requested_structure(body), use)
    if structure is not None and reasoning is not None:
        param, wanted = structure
        structure = param, Structure(with_reasoning(wanted.format, *reasoning), wanted.whitespace)
    markers = {*(use.form.markers if use else ())}
    if reasoning is not None:
        markers |= {reasoning[0].begin, reasoning[0].end}
    shows = not markers.isdisjoint(model.tokenizer.special_ids_by_text)
    return AnswerFormat(MessageFormat(reasoning, use.reader if use else None), structure, shows)


def _with_tools(asked: tuple[str, Structure] | None, use: ToolUse | None) -> tuple[str, Structure] | None:
    """Calls go before the response's format, which is for answers that call nothing."""
    if use is None:
        return asked
    if use.must_call:
        return "tools", Structure(use.calls())
    if asked is not None:
        param, structure = asked
        return param, Structure(either(use.calls(), structure.format), structure.whitespace)
    return ("tools", Structure(use.optional_calls())) if use.is_strict else None


def _reasoning(model: ServedModel, prompt_ids: list[int]) -> tuple[ReasoningFormat, ReasoningState] | None:
    if model.reasoning_format is None:
        return None
    prompt_end = model.tokenizer.decode(prompt_ids[-_PROMPT_END_TOKENS:])
    return model.reasoning_format, state_after(prompt_end, model.reasoning_format)
