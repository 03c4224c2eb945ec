"""Asks the engine what a new version answers to its evals, before any client may. Greedy, whole answers."""

from __future__ import annotations

from multiflora_engine.process.client import EngineUnavailable
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_platform.auth.secret import Secret
from multiflora_platform.engine import EngineHandle
from multiflora_platform.engine_requests import CacheScope, make_request
from multiflora_platform.gateway.prompting.messages import chat_prompt
from multiflora_platform.gateway.prompting.sampling import output_length
from multiflora_platform.gateway.prompting.tokenize import PromptRoom, text_prompts
from multiflora_platform.gateway.schemas.requests import ChatRequest
from multiflora_platform.groups import ServedModel
from multiflora_platform.registry.schemas.version_metadata import Eval
from multiflora_platform.web.openai_errors import ApiError
from multiflora_platform.web.problems import InvalidRequest, Unavailable


class EvalAnswers:
    """`answer` is the registry's AnswerEval."""

    def __init__(self, engine: EngineHandle, model: ServedModel, secret: Secret) -> None:
        self._engine = engine
        self._model = model
        self._secret = secret

    async def answer(self, digest: str, one: Eval) -> str:
        """Raises Unavailable while no engine is ready, InvalidRequest for a prompt that cannot be run."""
        if self._engine.ready is None:
            raise Unavailable("Evals need a running engine; it is starting or restarting.")
        try:
            limit = self._model.longest(self._engine)
            ids = await self._ids(one, PromptRoom(limit, one.max_tokens))
            length = output_length(
                len(ids), one.max_tokens, self._model.default_max_tokens, limit, ("max_tokens", "prompt")
            )
        except ApiError as error:
            raise InvalidRequest(f"An eval cannot be run: {error.message}") from error
        return await self._generate(digest, ids, length)

    async def _ids(self, one: Eval, room: PromptRoom) -> list[int]:
        model = self._model
        if one.messages is not None:
            chat = ChatRequest(model="", messages=one.messages)
            return await chat_prompt(chat, model, room)
        (ids,) = await text_prompts("prompt", one.prompt or "", True, model.tokenizer, model.vocab_size, room)
        return ids

    async def _generate(self, digest: str, ids: list[int], length: int) -> str:
        tenant = self._secret.derive("cache-salt", "evals")
        params = SamplingParams(temperature=0.0, max_tokens=length)
        request = make_request(ids, params, adapter_digest=digest, cache=CacheScope(tenant, tenant), background=True)
        out: list[int] = []
        try:
            async for delta in self._engine.generate(request):
                if delta.failure is not None:
                    raise Unavailable(f"The engine could not answer an eval: {delta.failure.message}")
                stopped = delta.finish_reason == "stop"
                out.extend(delta.token_ids[:-1] if stopped else delta.token_ids)
        except EngineUnavailable as error:
            raise Unavailable(f"The engine is not available: {error.message}") from error
        return self._model.tokenizer.decode(out, skip_special_tokens=True)
