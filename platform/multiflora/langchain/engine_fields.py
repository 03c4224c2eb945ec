"""What both LangChain classes have: the fields of LangChain's VLLM, the engine made of them, and its requests.

Knows neither prompts' texts nor messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from pydantic import BaseModel, Field, model_validator

from multiflora.engine.arg_utils import AsyncEngineArgs
from multiflora.engine.async_llm_engine import AsyncLLMEngine
from multiflora.lora_request import LoRARequest
from multiflora.outputs import RequestOutput
from multiflora.request_maker import Prompt
from multiflora_engine.protocol.sampling_params import SamplingParams


class EngineFields(BaseModel):
    """Names and defaults as in langchain_community's VLLM, whose programs run with another class name."""

    model: str = ""
    """A folder, or a Hugging Face id."""
    tensor_parallel_size: int | None = 1
    trust_remote_code: bool | None = False
    n: int = 1
    """Answers to each prompt."""
    best_of: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    use_beam_search: bool = False
    stop: list[str] | None = None
    ignore_eos: bool = False
    max_new_tokens: int = 512
    """Tokens of an answer at the most; fewer where the model's length leaves fewer."""
    logprobs: int | None = None
    dtype: str = "auto"
    download_dir: str | None = None
    vllm_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Other options of AsyncEngineArgs (max_model_len, max_loras, ...)."""
    adapter: str | None = None
    """A PEFT folder, which answers instead of the base model. A call may name another one: `bind(adapter=...)`."""
    client: Any = None
    """The engine. Give one object's to another, and both share it; without it each makes its own."""

    @model_validator(mode="after")
    def _with_engine(self) -> EngineFields:
        if self.client is None:
            names = ("model", "tensor_parallel_size", "trust_remote_code", "dtype", "download_dir")
            options = {**{name: getattr(self, name) for name in names}, **self.vllm_kwargs}
            self.client = AsyncLLMEngine.from_engine_args(AsyncEngineArgs(**options))
        elif not isinstance(self.client, AsyncLLMEngine):
            raise ValueError("client is a multiflora.AsyncLLMEngine, as the field `client` of another object has it")
        return self

    def close(self) -> None:
        """Ends the engine, also for other objects that share it. The program's end does so, too."""
        self._engine.shutdown()

    @property
    def _engine(self) -> AsyncLLMEngine:
        engine: AsyncLLMEngine = self.client
        return engine

    @property
    def _shown_params(self) -> dict[str, Any]:
        return {"model": self.model, "adapter": self.adapter, **self._sampling}

    @property
    def _sampling(self) -> dict[str, Any]:
        names = ("n", "best_of", "presence_penalty", "frequency_penalty", "temperature", "top_p", "top_k")
        fields = {name: getattr(self, name) for name in (*names, "use_beam_search", "stop", "ignore_eos", "logprobs")}
        return {**fields, "max_tokens": self.max_new_tokens}

    def _asked(self, stop: list[str] | None, given: dict[str, Any]) -> tuple[SamplingParams, LoRARequest | None]:
        """given: of one call; sampling parameters, `adapter` and `lora_request`. Raises TypeError for others."""
        call = dict(given)
        folder, request = call.pop("adapter", self.adapter), call.pop("lora_request", None)
        if "max_new_tokens" in call:
            call["max_tokens"] = call.pop("max_new_tokens")
        fields = {**self._sampling, **({} if stop is None else {"stop": stop}), **call}
        # Folders are names here: an adapter is what its files hold, whatever number a request gives it.
        return SamplingParams(**fields), request or (LoRARequest(folder, 1, folder) if folder else None)

    # ---- requests: all of one call run together

    async def _answers(
        self, prompts: Sequence[Prompt], params: SamplingParams, lora: LoRARequest | None
    ) -> list[RequestOutput]:
        tasks = [asyncio.ensure_future(self._answer(prompt, params, lora)) for prompt in prompts]
        try:
            return await asyncio.gather(*tasks)
        finally:
            # One that failed, or a caller that left, ends the others.
            for task in tasks:
                task.cancel()

    async def _answer(
        self, prompt: Prompt, params: SamplingParams, lora: LoRARequest | None, kept_ids: Collection[int] = ()
    ) -> RequestOutput:
        async for output in self._engine.generate(prompt, params, lora_request=lora, kept_ids=kept_ids):
            if output.finished:
                return output
        raise AssertionError("the last output is finished")

    async def _pieces(
        self, prompt: Prompt, params: SamplingParams, lora: LoRARequest | None, kept_ids: Collection[int] = ()
    ) -> AsyncGenerator[tuple[str, RequestOutput], None]:
        """What each output of the first answer adds to its text."""
        length = 0
        generation = self._engine.generate(prompt, params, lora_request=lora, kept_ids=kept_ids)
        async with aclosing(generation) as outputs:
            async for output in outputs:
                text = output.outputs[0].text
                yield text[length:], output
                length = len(text)

    def _run_pieces(
        self, prompt: Prompt, params: SamplingParams, lora: LoRARequest | None, kept_ids: Collection[int] = ()
    ) -> Iterator[tuple[str, RequestOutput]]:
        """The same, read by a program without an event loop."""
        return self._engine.iterate(self._pieces(prompt, params, lora, kept_ids))


def usage(outputs: Sequence[RequestOutput]) -> dict[str, int]:
    """Tokens of all prompts and of all answers."""
    prompt = sum(len(output.prompt_token_ids) for output in outputs)
    answers = sum(len(answer.token_ids) for output in outputs for answer in output.outputs)
    return {"prompt_tokens": prompt, "completion_tokens": answers, "total_tokens": prompt + answers}
