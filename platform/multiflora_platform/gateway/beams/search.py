"""Beam search as transformers does it: the search itself, without engine, text or HTTP.

After the decoder of Wu et al., "Google's Neural Machine Translation System" (arXiv:1609.08144), with the scores and
stopping rules of transformers' `generate(num_beams=...)`, which it equals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from multiflora_engine.protocol.requests import PositionLogprobs, TokenLogprob
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_engine.protocol.sampling_ranges import MAX_LOGPROBS, InvalidParameter


@dataclass(frozen=True)
class BeamParams:
    """What a request asks of a beam search; the gateway fills it."""

    width: int
    """Beams kept."""
    end_ids: frozenset[int]
    """Tokens that end an answer."""
    length_penalty: float = 1.0
    """Above 0 favours long answers."""
    early_stopping: bool | Literal["never"] = False
    """True stops at `width` finished answers; False when no running beam can become better at its present length;
    "never" when none can at any length."""

    @property
    def num_candidates(self) -> int:
        """Tokens that must be known of each beam: the best `width`, and as many if all end tokens are among them."""
        return self.width + len(self.end_ids)


def search_params(params: SamplingParams, eos_token_ids: frozenset[int]) -> BeamParams:
    """Of the search that a request asks for. Raises InvalidParameter when it has no tokens or too many beams."""
    if not params.max_tokens:
        raise InvalidParameter("max_tokens", "at least 1 with use_beam_search", params.max_tokens)
    ends = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else eos_token_ids)
    width, most = params.num_sequences, MAX_LOGPROBS - len(ends)
    if width > most:
        name = "n" if params.best_of is None else "best_of"
        raise InvalidParameter(name, f"at most {most} here, where it is the number of beams", width)
    return BeamParams(width, ends, params.length_penalty, params.early_stopping)


@dataclass(frozen=True)
class Beam:
    """An answer on its way."""

    token_ids: list[int] = field(default_factory=list)
    positions: list[PositionLogprobs] = field(default_factory=list)
    total: float = 0.0
    """The sum of its tokens' log-probabilities."""
    score: float = 0.0
    """Of a finished one; `extended` fills it."""

    def extended(self, entry: TokenLogprob, position: PositionLogprobs, length_penalty: float) -> Beam:
        total = self.total + entry.logprob
        return Beam(
            [*self.token_ids, entry.token_id],
            [*self.positions, PositionLogprobs(entry, position.top)],
            total,
            total / (len(self.token_ids) + 1) ** length_penalty,
        )


class BeamSearch:
    """running: the beams to extend next. finished: the best `width` answers so far, best first."""

    def __init__(self, params: BeamParams, max_tokens: int) -> None:
        self._params = params
        self._max_tokens = max_tokens
        self.running = [Beam()]
        self.finished: list[Beam] = []
        self.is_done = False

    def advance(self, positions: Sequence[PositionLogprobs]) -> None:
        """positions: for each running beam, the likeliest next tokens (`num_candidates` of them)."""
        params = self._params
        candidates = [
            beam.extended(entry, position, params.length_penalty)
            for beam, position in zip(self.running, positions, strict=True)
            for entry in position.top[: params.num_candidates]
        ]
        candidates.sort(key=lambda beam: -beam.total)
        is_last = len(candidates[0].token_ids) >= self._max_tokens
        ended = [beam for beam in candidates[: params.width] if is_last or self._has_ended(beam)]
        self.finished = sorted([*self.finished, *ended], key=lambda beam: -beam.score)[: params.width]
        self.running = [beam for beam in candidates if not self._has_ended(beam)][: params.width]
        self.is_done = is_last or not self.running or not self._can_improve()

    def finish_reason(self, beam: Beam) -> Literal["stop", "length"]:
        return "stop" if self._has_ended(beam) else "length"

    def _has_ended(self, beam: Beam) -> bool:
        return beam.token_ids[-1] in self._params.end_ids

    def _can_improve(self) -> bool:
        """Whether a running beam might still end better than the worst finished answer."""
        if len(self.finished) < self._params.width:
            return True
        if self._params.early_stopping is True:
            return False
        best, penalty = self.running[0], self._params.length_penalty
        reaches_end = self._params.early_stopping == "never" and penalty > 0
        length = self._max_tokens if reaches_end else len(best.token_ids)
        return bool(best.total / length**penalty > self.finished[-1].score)
