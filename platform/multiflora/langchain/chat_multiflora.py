"""LangChain's chat class: messages through the model's own template, tool calls read out of the answer's text."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, convert_to_openai_messages
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict

from multiflora.langchain.engine_fields import EngineFields, usage
from multiflora.outputs import CompletionOutput, RequestOutput
from multiflora_engine.protocol.sampling_params import StructuredOutputsParams
from multiflora_platform.gateway.prompting.answer_format import channels_format
from multiflora_platform.gateway.prompting.messages import template_messages
from multiflora_platform.gateway.prompting.tool_choice import ToolUse, offered_tools, tool_use
from multiflora_platform.gateway.schemas.requests import ChatRequest
from multiflora_platform.messages.message import MessageFormat, MessageReader
from multiflora_platform.messages.pieces import CallArguments, CallBegin, Content, Piece, Reasoning
from multiflora_platform.messages.tool_formats import HARMONY, behind_analysis, detect
from multiflora_platform.web.openai_errors import ApiError


@dataclass(frozen=True)
class _Asked:
    """One conversation, ready for the engine."""

    prompt: list[int]
    # How to read the answer: for calls, where tools are on offer, and for channels, where the model writes these.
    format: MessageFormat
    # Sampling parameters that follow from the tools.
    params: dict[str, Any]
    # Of the special tokens that mark these, which the reader looks for; no others stay in the text.
    kept_ids: frozenset[int]


class ChatMultiflora(EngineFields, BaseChatModel):
    """A base model with its adapters in an engine process of this program. Making it loads the model.

    Calls that run at the same time (`batch`, `abatch`, threads, coroutines) run together in the engine. Tools work with
    models whose template has them; `tool_choice` "any", or a tool's name, makes the answer a call.
    """

    model_config = ConfigDict(extra="forbid")

    @property
    def _llm_type(self) -> str:
        return "multiflora-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return self._shown_params

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[Any, AIMessage]:
        """tool_choice: "auto", "none", "any" (also "required" and True), a tool's name, or OpenAI's object."""
        bound_tools = [convert_to_openai_tool(tool) for tool in tools]
        bound: Runnable[Any, AIMessage] = self.bind(tools=bound_tools, tool_choice=_choice(tool_choice), **kwargs)
        return bound

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        asked, call = self._ask(messages, kwargs)
        return self._result(
            self._engine.run(self._answer(asked.prompt, *self._asked(stop, call), asked.kept_ids)), asked
        )

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        asked, call = self._ask(messages, kwargs)
        return self._result(await self._answer(asked.prompt, *self._asked(stop, call), asked.kept_ids), asked)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        asked, call = self._ask(messages, kwargs)
        reader = asked.format.reader()
        wanted = self._asked(stop, {**call, "n": 1, "best_of": None})
        for text, output in self._run_pieces(asked.prompt, *wanted, asked.kept_ids):
            for chunk in _chunks(reader, text, output):
                if run_manager is not None:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        asked, call = self._ask(messages, kwargs)
        reader = asked.format.reader()
        wanted = self._asked(stop, {**call, "n": 1, "best_of": None})
        async for text, output in self._pieces(asked.prompt, *wanted, asked.kept_ids):
            for chunk in _chunks(reader, text, output):
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _ask(self, messages: list[BaseMessage], given: dict[str, Any]) -> tuple[_Asked, dict[str, Any]]:
        """The conversation, and what of the call is for sampling. Raises ValueError for what the template refuses."""
        call = dict(given)
        written: Any = convert_to_openai_messages(messages)
        body = {"model": self.model, "messages": written}
        body |= {name: call.pop(name) for name in ("tools", "tool_choice") if call.get(name) is not None}
        call = {name: value for name, value in call.items() if name not in ("tools", "tool_choice")}
        tokenizer = self._engine.tokenizer
        try:
            request = msgspec.convert(body, ChatRequest)
            tools = offered_tools(request.tools)
            form = detect(tokenizer.templates.tool_source or "")
            in_channels = form is HARMONY
            use = tool_use(request, form)
            template = None if tokenizer.templates.is_empty else tokenizer.templates.pick(tools)
            said = template_messages(written, template, in_channels=in_channels)
            text = tokenizer.apply_chat_template(said, tools=tools)
        except ApiError as error:
            raise ValueError(str(error)) from None
        ids = tokenizer.encode(text, False)
        if in_channels:
            format, markers = channels_format(tokenizer, ids, use), HARMONY.markers
        else:
            format, markers = MessageFormat(tools=use.reader if use else None), use.form.markers if use else ()
        asked = _Asked(
            prompt=ids,
            format=format,
            params=_of_tools(use),
            kept_ids=tokenizer.special_ids_of(markers),
        )
        return asked, {**asked.params, **call}

    def _result(self, output: RequestOutput, asked: _Asked) -> ChatResult:
        generations = [
            ChatGeneration(message=_message(answer, output, asked.format), generation_info=_info(answer))
            for answer in output.outputs
        ]
        return ChatResult(
            generations=generations, llm_output={"token_usage": usage([output]), "model_name": self.model}
        )


def _choice(given: str | bool | dict[str, Any] | None) -> str | dict[str, Any] | None:
    """LangChain's ways of saying it, in OpenAI's words."""
    if isinstance(given, bool) or given is None:
        return "required" if given else None
    if given == "any":
        return "required"
    if isinstance(given, str) and given not in ("auto", "none", "required"):
        return {"type": "function", "function": {"name": given}}
    return given


def _of_tools(use: ToolUse | None) -> dict[str, Any]:
    """A call that must be one is a matter of the grammar."""
    if use is None or not use.must_call:
        return {}
    calls = behind_analysis(use.calls()) if use.form is HARMONY else use.calls()
    return {"structured_outputs": StructuredOutputsParams(structural_tag={"format": calls})}


def _message(answer: CompletionOutput, output: RequestOutput, format: MessageFormat) -> AIMessage:
    read = format.read(answer.text)
    calls: list[Any] = []
    invalid: list[Any] = []
    for call in read.calls:
        entry = {"name": call.name, "id": _call_id()}
        try:
            arguments = json.loads(call.arguments)
        except ValueError as error:
            invalid.append({**entry, "args": call.arguments, "error": str(error), "type": "invalid_tool_call"})
        else:
            calls.append({**entry, "args": arguments, "type": "tool_call"})
    return AIMessage(
        content=read.content or "",
        additional_kwargs={} if read.reasoning is None else {"reasoning_content": read.reasoning},
        tool_calls=calls,
        invalid_tool_calls=invalid,
        usage_metadata=_usage_metadata(output),
        response_metadata=_info(answer),
    )


def _chunks(reader: MessageReader, text: str, output: RequestOutput) -> Iterator[ChatGenerationChunk]:
    pieces = reader.push(text) + (reader.flush() if output.finished else [])
    for message in map(_piece_message, pieces):
        yield ChatGenerationChunk(message=message)
    if output.finished:
        info = _info(output.outputs[0])
        last = AIMessageChunk(
            content="", usage_metadata=_usage_metadata(output), response_metadata=info, chunk_position="last"
        )
        yield ChatGenerationChunk(message=last, generation_info=info)


def _piece_message(piece: Piece) -> AIMessageChunk:
    match piece:
        case Content(text):
            return AIMessageChunk(content=text)
        case Reasoning(text):
            return AIMessageChunk(content="", additional_kwargs={"reasoning_content": text})
        case CallBegin(index, name):
            return AIMessageChunk(
                content="", tool_call_chunks=[tool_call_chunk(name=name, args="", id=_call_id(), index=index)]
            )
        case CallArguments(index, text):
            return AIMessageChunk(content="", tool_call_chunks=[tool_call_chunk(args=text, index=index)])


def _call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def _usage_metadata(output: RequestOutput) -> UsageMetadata:
    count = usage([output])
    return UsageMetadata(
        input_tokens=count["prompt_tokens"],
        output_tokens=count["completion_tokens"],
        total_tokens=count["total_tokens"],
        input_token_details={"cache_read": output.num_cached_tokens},
    )


def _info(answer: CompletionOutput) -> dict[str, Any]:
    return {"finish_reason": answer.finish_reason, "stop_reason": answer.stop_reason}
