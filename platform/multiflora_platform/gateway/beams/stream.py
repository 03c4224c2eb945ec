"""A beam search on the engine, as a stream of token deltas: each step asks for one more token of every running beam.

The beams' common past is in the prefix cache, so that a step computes little more than one token for each of them, in
the same batches as other requests' tokens.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from multiflora_engine.process.client import EngineUnavailable
from multiflora_engine.process.token_stream import TokenStream
from multiflora_engine.protocol.requests import EngineFailure, GenerateRequest, PositionLogprobs, TokenDelta
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_platform.engine_requests import copy_request
from multiflora_platform.gateway.beams.search import Beam, BeamParams, BeamSearch


class StreamSource(Protocol):
    """The engine, as far as a search needs it."""

    def generate(self, request: GenerateRequest) -> TokenStream: ...


class BeamStream:
    """Yields one delta for each of the `params.n` answers, best first, when the search is over; used like TokenStream.

    Raises EngineUnavailable when the engine is not there at the start.
    """

    def __init__(self, engine: StreamSource, request: GenerateRequest, beams: BeamParams) -> None:
        assert request.params.max_tokens, "a beam has at least one token"
        self._engine = engine
        self._request = request
        self._search = BeamSearch(beams, request.params.max_tokens)
        self._num_candidates = beams.num_candidates
        self._first: TokenDelta | None = None
        self._device_seconds = 0.0
        self._deltas: deque[TokenDelta] | None = None
        self._steps = [self._ask(Beam())]

    def __aiter__(self) -> BeamStream:
        return self

    async def __anext__(self) -> TokenDelta:
        if self._deltas is None:
            try:
                self._deltas = deque(await self._run())
            finally:
                self.close()
        if not self._deltas:
            raise StopAsyncIteration
        return self._deltas.popleft()

    def close(self) -> None:
        """Idempotent; aborts what the engine still computes, and ends the iteration of its reader."""
        for step in self._steps:
            step.close()

    def end(self, index: int) -> None:
        """A stop string has cut an answer that is complete already."""

    async def _run(self) -> list[TokenDelta]:
        try:
            while not self._search.is_done:
                self._search.advance([await self._position(step) for step in self._steps])
                if not self._search.is_done:
                    self._steps = [self._ask(beam) for beam in self._search.running]
        except _StepFailed as failed:
            return [self._failed(failed.failure)]
        except EngineUnavailable as error:
            return [self._failed(EngineFailure(error.code, error.message))]
        best = self._search.finished[: self._request.params.n]
        return [self._delta(index, beam) for index, beam in enumerate(best)]

    def _ask(self, beam: Beam) -> TokenStream:
        request = self._request
        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            ignore_eos=True,
            logprobs=self._num_candidates,
            prompt_logprobs=None if beam.token_ids else request.params.prompt_logprobs,
        )
        prompt = [*request.prompt_token_ids, *beam.token_ids]
        return self._engine.generate(copy_request(request, prompt_token_ids=prompt, params=params))

    async def _position(self, step: TokenStream) -> PositionLogprobs:
        async for delta in step:
            if delta.failure is not None:
                raise _StepFailed(delta.failure)
            self._first = self._first or delta
            self._device_seconds += delta.device_seconds
            assert delta.logprobs, "the step asks for them"
            return delta.logprobs[0]
        raise _StepFailed(EngineFailure("engine_unavailable", "The search was cut off."))

    def _delta(self, index: int, beam: Beam) -> TokenDelta:
        """The first step's news of the prompt, and the device's time for all steps, go out with answer 0."""
        assert self._first is not None, "something was computed"
        wanted, first = self._request.params.logprobs, self._first
        return TokenDelta(
            request_id=self._request.id,
            index=index,
            token_ids=beam.token_ids,
            logprobs=None if wanted is None else beam.positions,
            prompt_logprobs=first.prompt_logprobs if index == 0 else None,
            cached_tokens=first.cached_tokens,
            cache_write_tokens=first.cache_write_tokens,
            queued_seconds=first.queued_seconds,
            device_seconds=self._device_seconds if index == 0 else 0.0,
            finish_reason=self._search.finish_reason(beam),
            stop_reason=last if (last := beam.token_ids[-1]) in self._request.params.stop_token_ids else None,
        )

    def _failed(self, failure: EngineFailure) -> TokenDelta:
        return TokenDelta(request_id=self._request.id, finish_reason="error", failure=failure)


class _StepFailed(Exception):
    def __init__(self, failure: EngineFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure
