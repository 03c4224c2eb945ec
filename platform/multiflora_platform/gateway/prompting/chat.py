"""A chat request as the engine's prompt and parameters, and how its answer is to be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from msgspec.structs import replace

from multiflora_engine.protocol.requests import DocumentSpan
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_platform.gateway.beams.search import BeamParams
from multiflora_platform.gateway.prompting.answer_format import answer_format, compile_structure
from multiflora_platform.gateway.prompting.beam_params import beam_params
from multiflora_platform.gateway.prompting.messages import chat_prompt
from multiflora_platform.gateway.prompting.reused_documents import prompt_of_documents
from multiflora_platform.gateway.prompting.sampling import output_length, sampling_params
from multiflora_platform.gateway.prompting.tokenize import PromptRoom, text_prompts, truncate
from multiflora_platform.gateway.prompting.tool_choice import ToolUse, offered_tools, tool_use
from multiflora_platform.gateway.schemas.requests import ChatRequest
from multiflora_platform.groups import ServedModel
from multiflora_platform.messages.message import MessageFormat
from multiflora_platform.structured.compiler import GrammarCompiler
from multiflora_platform.text.off_loop import off_loop
from multiflora_platform.web.openai_errors import invalid

# Tools and formats are read faster than text is tokenised.
_BYTES_PER_UNIT = 8


@dataclass(frozen=True)
class ChatPrompt:
    """All that `start` needs, and how the writer reads the answer."""

    ids: list[int]
    params: SamplingParams
    beams: BeamParams | None
    grammar: str | None
    format: MessageFormat
    marker_ids: frozenset[int]
    """Special tokens that the format's reader needs in the text."""
    prediction: list[int] | None = None
    """What the client thinks the answer will be."""
    documents: Sequence[DocumentSpan] = ()
    """Those whose KV may be taken from elsewhere."""


async def prepare_chat(
    body: ChatRequest,
    model: ServedModel,
    limit: int,
    grammars: GrammarCompiler,
    num_top: int | None,
    size: int,
    has_reuse: bool = False,
) -> ChatPrompt:
    """limit: tokens of prompt and answer together. num_top: of `num_top_logprobs`. size: of the request, in bytes.
    has_reuse: of `reuses_documents`. Raises ApiError."""
    name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    asked: int | None = getattr(body, name)
    if asked is not None and asked < 1:
        raise invalid(name, f"{name} must be at least 1, got {asked}.")
    units = size // _BYTES_PER_UNIT
    body, use = await off_loop(units, partial(_offered, body, model))
    room = PromptRoom(limit, asked, is_cut=bool(body.truncate_prompt_tokens))
    documents: Sequence[DocumentSpan] = ()
    if has_reuse:
        ids, documents = await prompt_of_documents(body, model, room, size)
    else:
        ids = await chat_prompt(body, model, room, size)
        ids = truncate(ids, body.truncate_prompt_tokens, limit, asked)

    # Of a message that goes on in channels, all of the text is read.
    in_full = model.writes_channels and body.continue_final_message
    form = await off_loop(size if in_full else units, partial(answer_format, body, model, ids, use))
    made = partial(
        sampling_params,
        body,
        model.generation_defaults,
        max_tokens=output_length(len(ids), asked, model.default_max_tokens, limit, (name, "messages")),
        logprobs=0 if num_top is None and body.best_of is not None else num_top,
        prompt_logprobs=body.prompt_logprobs,
        vocab_size=model.vocab_size,
    )
    params = await off_loop(units, made)
    if body.prompt_cache_options is not None and body.prompt_cache_options.prewarm:
        nothing = replace(params, max_tokens=0, min_tokens=0)
        return ChatPrompt(ids, nothing, None, None, form.message, form.marker_ids, documents=documents)
    beams = beam_params(body, params, model.eos_token_ids) if body.use_beam_search else None
    grammar = None if form.structure is None else await compile_structure(grammars, *form.structure)
    prediction = None if body.prediction is None else await _prediction(body.prediction.text, model, limit)
    return ChatPrompt(ids, params, beams, grammar, form.message, form.marker_ids, prediction, documents)


async def _prediction(text: str, model: ServedModel, limit: int) -> list[int]:
    """limit: in tokens, of what is sent to the engine and indexed there; the rest is left out. Raises ApiError."""
    if not text:
        return []
    room = PromptRoom(limit, None, is_cut=True)
    (ids,) = await text_prompts("prediction.content", text, False, model.tokenizer, model.vocab_size, room)
    return ids[:limit]


async def count_chat(body: ChatRequest, model: ServedModel, size: int) -> int:
    """The tokens of the prompt that `prepare_chat` makes, whether they fit or not. Raises ApiError."""
    body, _ = await off_loop(size // _BYTES_PER_UNIT, partial(_offered, body, model))
    room = PromptRoom(model.max_model_len, None, is_cut=True)
    return len(await chat_prompt(body, model, room, size))


async def begun_ids(body: ChatRequest, model: ServedModel, limit: int) -> list[int]:
    """The prompt of a conversation that goes on behind these messages. limit: tokens of prompt and answer. Raises
    ApiError."""
    begun = replace(body, tools=offered_tools(body.tools), add_generation_prompt=False, continue_final_message=False)
    return await chat_prompt(begun, model, PromptRoom(limit, 1))


def _offered(body: ChatRequest, model: ServedModel) -> tuple[ChatRequest, ToolUse | None]:
    """The tools as the template gets them, and checked: the template would only say that it fails."""
    if body.tools is not None:
        body = replace(body, tools=offered_tools(body.tools))
    return body, tool_use(body, model.tool_format) if body.tools or body.tool_choice is not None else None
