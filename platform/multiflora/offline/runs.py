"""Requests on their way through the step loop: sampled ones, beam searches and embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol

from multiflora.collector import Collector
from multiflora.offline.offline_loop import OfflineLoop
from multiflora_engine.protocol.requests import EngineFailure, GenerateRequest, TokenDelta
from multiflora_platform.gateway.beams.search import BeamParams
from multiflora_platform.gateway.beams.steps import BeamSteps, StepFailed


class OfflineRun(Protocol):
    """One prompt, until it has ended or was withdrawn."""

    @property
    def finished(self) -> bool: ...

    def begin(self) -> None:
        """Raises QueueFull, or ValueError for what cannot be run."""

    def withdraw(self) -> None:
        """Idempotent."""


class SampledRun:
    """The engine samples all answers of a request by itself."""

    def __init__(self, loop: OfflineLoop, collector: Collector) -> None:
        self._loop = loop
        self._collector = collector

    @property
    def finished(self) -> bool:
        return self._collector.finished

    def begin(self) -> None:
        self._loop.submit(self._collector.request, self._take)

    def withdraw(self) -> None:
        self._loop.withdraw([self._collector.request.id])

    def _take(self, delta: TokenDelta) -> None:
        if self._collector.push(delta):
            self._loop.end_sequence(delta.request_id, delta.index)
        if self.finished:
            self.withdraw()


class BeamRun:
    """The answers of a beam search: all of them at its end."""

    def __init__(self, loop: OfflineLoop, collector: Collector, beams: BeamParams) -> None:
        self._loop = loop
        self._collector = collector
        self._steps = BeamSteps(collector.request, beams)
        self._asked: list[GenerateRequest] = []
        # Of the step that runs, by its request's place.
        self._answered: dict[int, TokenDelta] = {}

    @property
    def finished(self) -> bool:
        return self._collector.finished

    def begin(self) -> None:
        self._asked, self._answered = self._steps.requests(), {}
        for place, request in enumerate(self._asked):
            self._loop.submit(request, partial(self._take, place))

    def withdraw(self) -> None:
        self._loop.withdraw(request.id for request in self._asked)

    def _take(self, place: int, delta: TokenDelta) -> None:
        self._answered[place] = delta
        if len(self._answered) < len(self._asked):
            return
        self.withdraw()
        try:
            self._steps.take([self._answered[place] for place in range(len(self._asked))])
            if not self._steps.is_done:
                self.begin()
                return
            for answer in self._steps.answers():
                self._collector.push(answer)
        except StepFailed as failed:
            self._fail(failed.failure)

    def _fail(self, failure: EngineFailure) -> None:
        for index in range(self._collector.num_returned):
            self._collector.push(
                TokenDelta(request_id=self._collector.request.id, index=index, finish_reason="error", failure=failure)
            )


class EmbeddingRun:
    """A prompt's hidden state, and no text."""

    def __init__(self, loop: OfflineLoop, request: GenerateRequest) -> None:
        self._loop = loop
        self._request = request
        self._delta: TokenDelta | None = None

    @property
    def finished(self) -> bool:
        return self._delta is not None

    @property
    def pooled(self) -> tuple[GenerateRequest, TokenDelta]:
        """The only delta, which holds the embedding or why there is none."""
        assert self._delta is not None, "it has finished"
        return self._request, self._delta

    def begin(self) -> None:
        self._loop.submit(self._request, self._take)

    def withdraw(self) -> None:
        self._loop.withdraw([self._request.id])

    def _take(self, delta: TokenDelta) -> None:
        self._delta = delta
        self.withdraw()


def make_run(loop: OfflineLoop, collector: Collector) -> SampledRun | BeamRun:
    return SampledRun(loop, collector) if collector.beams is None else BeamRun(loop, collector, collector.beams)


def run_all(loop: OfflineLoop, runs: Sequence[OfflineRun]) -> Iterator[None]:
    """Begins all of them or none, then steps until they have finished; yields after every step, also where the step was
    another call's. Leaving the iterator withdraws them. Raises ValueError naming the place of what cannot be run."""
    try:
        for place, run in enumerate(runs):
            try:
                run.begin()
            except ValueError as error:
                raise ValueError(f"prompt {place}: {error}") from None
        while not all(run.finished for run in runs):
            loop.step()
            yield
    finally:
        for run in runs:
            run.withdraw()
