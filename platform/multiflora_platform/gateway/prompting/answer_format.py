"""What a chat answer may hold and must look like: tools, structured output and reasoning brought together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from msgspec.structs import replace

from multiflora_engine.protocol.sampling_params import StructuredOutputsParams
from multiflora_platform.gateway.prompting.tool_choice import ToolUse
from multiflora_platform.gateway.schemas.requests import ChatRequest, GenerationRequest, JsonSchema, ResponseFormat
from multiflora_platform.groups import ServedModel
from multiflora_platform.messages.harmony import START, place_after
from multiflora_platform.messages.message import MessageFormat
from multiflora_platform.messages.reasoning import (
    ReasoningFormat,
    ReasoningState,
    state_after,
    with_reasoning,
)
from multiflora_platform.messages.tool_formats import HARMONY, behind_analysis, in_final_channel
from multiflora_platform.messages.tool_readers import make_reader
from multiflora_platform.structured.compiler import CompilersBusy, GrammarCompiler, GrammarRejected
from multiflora_platform.structured.formats import (
    Format,
    FormatError,
    Structure,
    close_objects,
    either,
    json_schema,
    structural_tag,
    structure_of,
)
from multiflora_platform.text.tokenizer import Tokenizer
from multiflora_platform.web.openai_errors import ApiError, invalid

# Template and markers end a prompt with a few tokens; what stands before is the conversation.
_PROMPT_END_TOKENS = 32


@dataclass(frozen=True)
class AnswerFormat:
    """What `answer_format` decides of a chat answer."""

    message: MessageFormat
    """How to read the answer."""
    structure: tuple[str, Structure] | None
    """(the parameter that asks for it, what the answer must follow)."""
    marker_ids: frozenset[int]
    """The markers that are special tokens; these have to stay in the text to be found, and no others."""


def answer_format(body: ChatRequest, model: ServedModel, prompt_ids: list[int], use: ToolUse | None) -> AnswerFormat:
    """Raises ApiError."""
    if model.writes_channels:
        return _in_channels(body, model, prompt_ids, use)
    reasoning = _reasoning(model, prompt_ids)
    structure = _with_tools(requested_structure(body), use)
    if structure is not None and reasoning is not None:
        param, wanted = structure
        structure = param, Structure(with_reasoning(wanted.format, *reasoning), wanted.whitespace)
    markers = {*(use.form.markers if use else ())}
    if reasoning is not None:
        markers |= {reasoning[0].begin, reasoning[0].end}
    marker_ids = model.tokenizer.special_ids_of(markers)
    return AnswerFormat(MessageFormat(reasoning, use.reader if use else None), structure, marker_ids)


def channels_format(tokenizer: Tokenizer, prompt_ids: list[int], use: ToolUse | None) -> MessageFormat:
    """How to read an answer in channels; it may go on within the prompt's last message."""
    # Read here, once for all answers: this may be long, and readers are made on the event loop.
    begin = place_after(_last_message(tokenizer, prompt_ids))
    return MessageFormat(tools=partial(use.reader, begin) if use else partial(make_reader, HARMONY, {}, False, begin))


def _in_channels(body: ChatRequest, model: ServedModel, prompt_ids: list[int], use: ToolUse | None) -> AnswerFormat:
    """What goes on within a message has its channel already, and no grammar asks for a call behind it. Raises
    ApiError."""
    structure = requested_structure(body)
    if not body.continue_final_message:
        structure = _formed(_with_tools(_formed(structure, in_final_channel), use), behind_analysis)
    elif use is not None and (use.must_call or use.is_strict):
        param, asks = ("tool_choice", "asks for a call") if use.must_call else ("tools", "holds strict functions")
        raise invalid(
            param,
            f"{param} {asks}; this model cannot be held to it within a message that goes on "
            "(continue_final_message, or a last message of the assistant's).",
        )
    markers = model.tokenizer.special_ids_of(HARMONY.markers)
    return AnswerFormat(channels_format(model.tokenizer, prompt_ids, use), structure, markers)


def _formed(asked: tuple[str, Structure] | None, form: Callable[[Format], Format]) -> tuple[str, Structure] | None:
    return asked and (asked[0], replace(asked[1], format=form(asked[1].format)))


def _last_message(tokenizer: Tokenizer, prompt_ids: list[int]) -> str:
    """The prompt from where its last message starts; empty where none does."""
    starts = tokenizer.special_ids_of((START,))
    last = next((at for at in range(len(prompt_ids) - 1, -1, -1) if prompt_ids[at] in starts), -_PROMPT_END_TOKENS)
    _, start, message = tokenizer.decode(prompt_ids[last:]).rpartition(START)
    return start + message if start else ""


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


# vLLM's older names, SGLang's and llama.cpp's, and what each is called now.
_GUIDED = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "regex": "regex",
    "ebnf": "grammar",
    "grammar": "grammar",
    "json_schema": "json",
}


def requested_structure(body: GenerationRequest) -> tuple[str, Structure] | None:
    """(the parameter that asks for it, the structure). Raises ApiError for what cannot be, and for two at once."""
    asked = [name for name in ("response_format", "structured_outputs", *_GUIDED) if _asks(body, name)]
    if len(asked) > 1:
        raise invalid(asked[1], f"{asked[0]} and {asked[1]} are given; an answer follows one of them only.")
    if not asked:
        return None
    try:
        return asked[0], _structure(body, asked[0])
    except FormatError as error:
        param = f"{asked[0]}.{error.parameter}" if error.parameter and asked[0] == "structured_outputs" else asked[0]
        raise invalid(param, f"{asked[0]} cannot be used: {error}.") from None
    except RecursionError:  # a schema written as text may be nested as deeply as it likes
        raise invalid(asked[0], f"{asked[0]} cannot be used: it is nested too deeply.") from None


async def compile_structure(compiler: GrammarCompiler, param: str, structure: Structure) -> str:
    """The grammar for the engine. Raises ApiError: 400 for a structure that cannot be followed, 429 when busy."""
    try:
        return await compiler.compile(structure)
    except GrammarRejected as error:
        reason = str(error).rstrip(".")
        raise invalid(param, f"{param} cannot be used: {reason}.", "invalid_grammar") from None
    except CompilersBusy as error:
        raise ApiError(429, "server_overloaded", str(error), param=param) from None


def _asks(body: GenerationRequest, name: str) -> bool:
    value = getattr(body, name)
    if isinstance(value, ResponseFormat):
        return value.type != "text"
    return value is not None and (value not in ("", {}) or name.startswith("guided_"))  # llama.cpp's page sends ""


def _structure(body: GenerationRequest, name: str) -> Structure:
    value: Any = getattr(body, name)
    if isinstance(value, ResponseFormat):
        return Structure(_response_format(value))
    if isinstance(value, StructuredOutputsParams):
        return structure_of(value)
    given = {_GUIDED[name]: value}
    return structure_of(StructuredOutputsParams(**given, whitespace_pattern=body.guided_whitespace_pattern))


def _response_format(form: ResponseFormat) -> dict[str, Any]:
    named = form.json_schema or JsonSchema()
    schema = next((each for each in (named.schema, form.schema, form.value) if each is not None), None)
    if form.type == "structural_tag":
        return structural_tag({"format": form.format, "structures": form.structures, "triggers": form.triggers})
    if schema is None and (form.type == "json_schema" or form.json_schema is not None):
        raise FormatError("json_schema.schema is missing")
    if form.type == "json_object":
        return json_schema({"type": "object", **(schema or {})})
    return json_schema(close_objects(schema) if named.strict else schema)
