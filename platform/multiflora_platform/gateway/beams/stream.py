"""A beam search on the engine, as a stream of token deltas."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from multiflora_engine.process.client import EngineUnavailable
from multiflora_engine.process.token_stream import TokenStream
from multiflora_engine.protocol.requests import EngineFailure, GenerateRequest, TokenDelta
from multiflora_platform.gateway.beams.search import BeamParams
from multiflora_platform.gateway.beams.steps import BeamSteps, StepFailed


class StreamSource(Protocol):
    """The engine, as far as a search needs it."""

    def generate(self, request: GenerateRequest) -> TokenStream: ...


class BeamStream:
    """Yields one delta for each of the `params.n` answers, best first, when the search is over; used like TokenStream.

    Raises EngineUnavailable when the engine is not there at the start.
    """

    def __init__(self, engine: StreamSource, request: GenerateRequest, beams: BeamParams) -> None:
        self._engine = engine
        self._request_id = request.id
        self._steps = BeamSteps(request, beams)
        self._deltas: deque[TokenDelta] | None = None
        self._asked = self._ask()

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
        for stream in self._asked:
            stream.close()

    def end(self, index: int) -> None:
        """A stop string has cut an answer that is complete already."""

    async def _run(self) -> list[TokenDelta]:
        try:
            while not self._steps.is_done:
                self._steps.take([await _only_delta(stream) for stream in self._asked])
                if not self._steps.is_done:
                    self._asked = self._ask()
        except StepFailed as failed:
            return [self._failed(failed.failure)]
        except EngineUnavailable as error:
            return [self._failed(EngineFailure(error.code, error.message))]
        return self._steps.answers()

    def _ask(self) -> list[TokenStream]:
        return [self._engine.generate(request) for request in self._steps.requests()]

    def _failed(self, failure: EngineFailure) -> TokenDelta:
        return TokenDelta(request_id=self._request_id, finish_reason="error", failure=failure)


async def _only_delta(stream: TokenStream) -> TokenDelta:
    async for delta in stream:
        return delta
    raise StepFailed(EngineFailure("engine_unavailable", "The search was cut off."))
