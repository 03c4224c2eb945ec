"""Prompts to token ids, off the event loop when they are long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from multiflora_platform.gateway.prompting.sampling import prompt_too_long
from multiflora_platform.gateway.schemas.requests import ChatRequest, CompletionRequest, TokenizeRequest
from multiflora_platform.groups import ServedModel
from multiflora_platform.text.errors import ChatTemplateError, TooManyTokens
from multiflora_platform.text.message_parts import without_reuse
from multiflora_platform.text.off_loop import off_loop
from multiflora_platform.text.tokenizer import Tokenizer
from multiflora_platform.web.openai_errors import ApiError, invalid

MAX_PROMPTS = 1024
MAX_SEQUENCES = 4096
MOST_CUT = 1 << 18
"""Tokens of a prompt that need not fit: a list of more, made of a text at once, would hold up other requests."""
Result = TypeVar("Result")
Prompt = str | list[str | int | list[int]]


@dataclass(frozen=True)
class PromptRoom:
    """What a prompt may have of the model's length."""

    limit: int
    """Tokens of prompt and answer together."""
    asked: int | None
    """Tokens of the answer as the request asks for them; 0: none, so that the prompt may fill the model's length."""
    is_cut: bool = False
    """Only its last tokens are read afterwards, or it is only counted: it may be longer than the model takes."""

    @property
    def most(self) -> int:
        return max(MOST_CUT, 2 * self.limit) if self.is_cut else self.limit - (self.asked != 0)

    def error(self, param: str, error: TooManyTokens) -> ApiError:
        count = f"{error.count}" if error.is_exact else f"at least {error.count}"
        if self.is_cut:
            return invalid(param, f"{param} has {count} tokens; at most {self.most} are taken at once.")
        return prompt_too_long(param, count, self.limit, self.asked)


async def completion_prompts(
    request: CompletionRequest, tokenizer: Tokenizer, vocab_size: int, limit: int
) -> list[list[int]]:
    """One list of ids for each prompt. limit: tokens of prompt and answer together. Raises ApiError."""
    room = PromptRoom(limit, request.max_tokens, is_cut=bool(request.truncate_prompt_tokens))
    special = request.add_special_tokens is not False
    ids = await text_prompts("prompt", request.prompt, special, tokenizer, vocab_size, room)
    if len(ids) * max(request.n or 1, request.best_of or 1) > MAX_SEQUENCES:
        name = "n" if (request.n or 1) >= (request.best_of or 1) else "best_of"
        raise invalid(name, f"{name} answers to each of {len(ids)} prompts are more than {MAX_SEQUENCES} at once.")
    return ids


async def text_prompts(
    param: str, prompt: Prompt, add_special: bool, tokenizer: Tokenizer, vocab_size: int, room: PromptRoom
) -> list[list[int]]:
    """One list of ids for each text or list of ids in `prompt`, the request's `param`. Raises ApiError."""

    def encode() -> list[list[int]]:
        return [_ids(param, p, add_special, tokenizer, vocab_size, room) for p in _split(param, prompt)]

    ids = await _encoded(param, _length(prompt), encode, room)
    if not all(ids):
        raise invalid(param, f"{param} has no tokens; send some text or token ids.")
    return ids


async def encode_conversation(
    request: ChatRequest | TokenizeRequest,
    messages: list[dict[str, Any]],
    size: int,
    model: ServedModel,
    room: PromptRoom,
) -> list[int]:
    """messages: the request's, as the template reads them. size: of them, in characters. Raises ApiError."""
    tokenizer = model.tokenizer
    is_read_by_model = isinstance(request, ChatRequest)

    def encode() -> list[int]:
        text = conversation_text(request, messages, tokenizer, model.writes_channels)
        ids = tokenizer.encode(text, bool(request.add_special_tokens), most=room.most)
        return _check_text("messages", ids, tokenizer, model.vocab_size) if is_read_by_model else ids

    try:
        ids = await _encoded("messages", size, encode, room)
    except ChatTemplateError as error:
        raise invalid("messages", str(error)) from None
    if not ids:
        raise invalid("messages", "The chat template makes no tokens of these messages.")
    return ids


def conversation_text(
    request: ChatRequest | TokenizeRequest, messages: list[dict[str, Any]], tokenizer: Tokenizer, in_channels: bool
) -> str:
    """messages: the request's, as the template reads them. in_channels: see `ServedModel.writes_channels`.
    Raises ChatTemplateError."""
    continues = bool(request.continue_final_message)
    # What the model does not see, it does not call.
    tools = None if isinstance(request, ChatRequest) and request.tool_choice == "none" else request.tools
    if tools and in_channels:
        tools = [_described(tool) for tool in tools]
    effort = request.reasoning_effort if isinstance(request, ChatRequest) else None
    options = {} if effort is None else {"reasoning_effort": effort}
    generation_prompt = not continues if request.add_generation_prompt is None else request.add_generation_prompt
    return tokenizer.apply_chat_template(
        messages,
        tools=tools,
        documents=None if request.documents is None else [*map(without_reuse, request.documents)],
        add_generation_prompt=generation_prompt,
        continue_final_message=continues,
        chat_template_kwargs={**options, **(request.chat_template_kwargs or {})},
    )


def _described(tool: dict[str, Any]) -> dict[str, Any]:
    """gpt-oss's template fails on a function without a description."""
    function = tool.get("function")
    return {**tool, "function": {"description": "", **function}} if isinstance(function, dict) else tool


async def _encoded(param: str, size: int, encode: Callable[[], Result], room: PromptRoom) -> Result:
    """Raises ApiError for a text that leaves the room."""
    try:
        return await off_loop(size, encode)
    except TooManyTokens as error:
        raise room.error(param, error) from None


def truncate(ids: list[int], keep: int | None, limit: int, max_tokens: int | None) -> list[int]:
    """The last `keep` ids; -1 keeps what fits the model's length. Raises ApiError."""
    if keep is None:
        return ids
    if keep == -1:
        keep = max(limit - (max_tokens or 1), 1)
    if not 1 <= keep <= limit:
        raise invalid("truncate_prompt_tokens", f"truncate_prompt_tokens must be -1 or from 1 to {limit}, got {keep}.")
    return ids[-keep:]


def check_ids(param: str, ids: list[int], vocab_size: int) -> list[int]:
    """Raises ApiError for an id outside the vocabulary."""
    if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
        raise invalid(param, f"{param} holds a token id outside 0 to {vocab_size - 1}.")
    return ids


def _check_text(param: str, ids: list[int], tokenizer: Tokenizer, vocab_size: int) -> list[int]:
    """Raises ApiError for a text with a token that the tokenizer knows and the model does not."""
    if (reason := tokenizer.beyond(ids, vocab_size)) is not None:
        raise invalid(param, f"{param} {reason}.")
    return ids


def _length(prompt: Prompt) -> int:
    """In characters and ids. Of a list of more items than prompts are taken, only how many they are."""
    if isinstance(prompt, str) or len(prompt) > MAX_PROMPTS:
        return len(prompt)
    return sum(1 if isinstance(item, int) else len(item) for item in prompt)


def _ids(
    param: str, prompt: str | list[int], special: bool, tokenizer: Tokenizer, vocab_size: int, room: PromptRoom
) -> list[int]:
    """Of one prompt. What cannot fit is refused before it is looked at. Raises ApiError, TooManyTokens."""
    if isinstance(prompt, str):
        return _check_text(param, tokenizer.encode(prompt, special, most=room.most), tokenizer, vocab_size)
    if len(prompt) > room.most:
        raise TooManyTokens(len(prompt), is_exact=True)
    return check_ids(param, prompt, vocab_size)


def _split(param: str, prompt: Prompt) -> list[str | list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise invalid(param, f"{param} is an empty list; send at least one prompt.")
    kinds = {type(item) for item in prompt}
    if kinds == {int}:
        return [prompt]  # type: ignore[list-item]  # one prompt as ids
    if len(prompt) > MAX_PROMPTS:
        raise invalid(param, f"{param} holds {len(prompt)} prompts; at most {MAX_PROMPTS} are taken at once.")
    if kinds <= {str} or kinds <= {list}:
        return prompt  # type: ignore[return-value]
    raise invalid(param, f"{param} must be a string, token ids, or a list of only strings or only lists of token ids.")
