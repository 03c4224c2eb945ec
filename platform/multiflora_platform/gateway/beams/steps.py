"""A beam search as requests to an engine, and their answers: each step asks for one more token of every running beam.

Knows neither how requests are sent nor who waits. The beams' common past is in the prefix cache, so that a step
computes little more than one token for each of them, in the same batches as other requests' tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from multiflora_engine.protocol.requests import EngineFailure, GenerateRequest, PositionLogprobs, TokenDelta
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_platform.engine_requests import copy_request
from multiflora_platform.gateway.beams.search import Beam, BeamParams, BeamSearch


class StepFailed(Exception):
    """The engine could not compute a step; failure says why."""

    def __init__(self, failure: EngineFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class BeamSteps:
    """Of one request, whose params say how many answers are wanted and how long they may be."""

    def __init__(self, request: GenerateRequest, beams: BeamParams) -> None:
        assert request.params.max_tokens, "a beam has at least one token"
        self._request = request
        self._search = BeamSearch(beams, request.params.max_tokens)
        self._num_candidates = beams.num_candidates
        self._first: TokenDelta | None = None
        self._device_seconds = 0.0

    @property
    def is_done(self) -> bool:
        return self._search.is_done

    def requests(self) -> list[GenerateRequest]:
        """The next step: one for each running beam."""
        return [self._ask(beam) for beam in self._search.running]

    def take(self, deltas: Sequence[TokenDelta]) -> None:
        """deltas: the answers to all requests of the step, in their order. Raises StepFailed."""
        self._search.advance([self._position(delta) for delta in deltas])

    def answers(self) -> list[TokenDelta]:
        """One for each of the best `params.n`, best first, when the search is done."""
        best = self._search.finished[: self._request.params.n]
        return [self._answer(index, beam) for index, beam in enumerate(best)]

    def _ask(self, beam: Beam) -> GenerateRequest:
        request = self._request
        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            ignore_eos=True,
            logprobs=self._num_candidates,
            prompt_logprobs=None if beam.token_ids else request.params.prompt_logprobs,
        )
        return copy_request(
            request,
            prompt_token_ids=[*request.prompt_token_ids, *beam.token_ids],
            num_asked_tokens=len(request.prompt_token_ids),
            params=params,
        )

    def _position(self, delta: TokenDelta) -> PositionLogprobs:
        if delta.failure is not None:
            raise StepFailed(delta.failure)
        self._first = self._first or delta
        self._device_seconds += delta.device_seconds
        assert delta.logprobs, "the step asks for them"
        return delta.logprobs[0]

    def _answer(self, index: int, beam: Beam) -> TokenDelta:
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
            evicted_tokens=first.evicted_tokens,
            queued_seconds=first.queued_seconds,
            device_seconds=self._device_seconds if index == 0 else 0.0,
            prompt_device_seconds=first.device_seconds if index == 0 else None,
            finish_reason=self._search.finish_reason(beam),
            stop_reason=last if (last := beam.token_ids[-1]) in self._request.params.stop_token_ids else None,
        )
