"""LangChain's text-completion class: prompts in, texts out. Knows no messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from pydantic import ConfigDict

from multiflora.langchain.engine_fields import EngineFields, usage
from multiflora.outputs import CompletionOutput, RequestOutput


class Multiflora(EngineFields, BaseLLM):
    """A base model with its adapters in an engine process of this program. Making it loads the model.

    All prompts of a call run together: `batch` is one batch of the engine, of several adapters if several objects share
    a `client`. `stream` and `astream` yield text as it comes, of one answer whatever n is.
    """

    model_config = ConfigDict(extra="forbid")

    @property
    def _llm_type(self) -> str:
        return "multiflora"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return self._shown_params

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        return self._result(self._engine.run(self._answers(prompts, *self._asked(stop, kwargs))))

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        return self._result(await self._answers(prompts, *self._asked(stop, kwargs)))

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        for text, output in self._run_pieces(prompt, *self._asked(stop, {**kwargs, "n": 1, "best_of": None})):
            chunk = _chunk(text, output)
            if run_manager is not None:
                run_manager.on_llm_new_token(text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        async for text, output in self._pieces(prompt, *self._asked(stop, {**kwargs, "n": 1, "best_of": None})):
            chunk = _chunk(text, output)
            if run_manager is not None:
                await run_manager.on_llm_new_token(text, chunk=chunk)
            yield chunk

    def _result(self, outputs: Sequence[RequestOutput]) -> LLMResult:
        generations = [
            [Generation(text=answer.text, generation_info=_info(answer)) for answer in output.outputs]
            for output in outputs
        ]
        return LLMResult(generations=generations, llm_output={"token_usage": usage(outputs), "model_name": self.model})


def _chunk(text: str, output: RequestOutput) -> GenerationChunk:
    return GenerationChunk(text=text, generation_info=_info(output.outputs[0]) if output.finished else None)


def _info(answer: CompletionOutput) -> dict[str, Any]:
    """What LangChain's users find beside a text."""
    info: dict[str, Any] = {"finish_reason": answer.finish_reason, "stop_reason": answer.stop_reason}
    return info | ({} if answer.logprobs is None else {"logprobs": answer.logprobs})
