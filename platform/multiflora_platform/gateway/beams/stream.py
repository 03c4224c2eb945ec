"""A beam search on the engine, as a stream of token deltas."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from multiflora_engine.process.client import EngineUnavailable
from multiflora_engine.process.token_stream import TokenStream
from multiflora_engine.protocol.requests import EngineFailure, FinishReason, GenerateRequest, TokenDelta
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
        self._answers = range(request.params.n)
        self._deltas: deque[TokenDelta] | None = None
        self._is_cut = False
        self._asked = self._ask()

    def __aiter__(self) -> BeamStream:
        return self

    async def __anext__(self) -> TokenDelta:
        deltas = await self._found()
        if not deltas:
            raise StopAsyncIteration
        return deltas.popleft()

    async def arrived(self) -> list[TokenDelta]:
        """All of them; none after that."""
        deltas = await self._found()
        arrived = list(deltas)
        deltas.clear()
        return arrived

    async def _found(self) -> deque[TokenDelta]:
        if self._deltas is None:
            try:
                self._deltas = deque(await self._run())
            finally:
                self.close()
        return self._deltas

    @property
    def has_failed(self) -> bool:
        return any(stream.has_failed for stream in self._asked)

    def cut(self) -> None:
        """Another one than the reader ends the search: its answers end with finish_reason "abort"."""
        self._is_cut = True
        self.close()

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
            return self._failed(None if self._is_cut else failed.failure)
        except EngineUnavailable as error:
            return self._failed(EngineFailure(error.code, error.message))
        return self._steps.answers()

    def _ask(self) -> list[TokenStream]:
        return [self._engine.generate(request) for request in self._steps.requests()]

    def _failed(self, failure: EngineFailure | None) -> list[TokenDelta]:
        """failure: None for a search that was cut off."""
        reason: FinishReason = "abort" if failure is None else "error"
        return [
            TokenDelta(request_id=self._request_id, index=index, finish_reason=reason, failure=failure)
            for index in self._answers
        ]


async def _only_delta(stream: TokenStream) -> TokenDelta:
    async for delta in stream:
        return delta
    raise StepFailed(EngineFailure("engine_unavailable", "The search was cut off."))
