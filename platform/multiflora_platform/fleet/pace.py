"""How long one replica computes a prompt's token and an answer's, learned from what its heartbeats count."""

from __future__ import annotations

from multiflora_engine.protocol.messages import EngineStats

_FIRST_PROMPT, _FIRST_ANSWER = 0.5e-3, 5e-3
"""Seconds of a token, until the replica's own are known: of a small model on a CPU. Only their ratio decides then."""
_KEPT = 0.95
"""Weight of all before, when one more stretch between two heartbeats is seen."""


class Pace:
    """seconds = prompt tokens * prompt_seconds + answer tokens * answer_seconds, fitted with decaying weights."""

    def __init__(self) -> None:
        self.prompt_seconds, self.answer_seconds = _FIRST_PROMPT, _FIRST_ANSWER
        self._last: EngineStats | None = None
        # Sums of squares and products of both counts, and of each with the seconds.
        self._pp = self._pa = self._aa = self._ps = self._as = 0.0

    def observe(self, stats: EngineStats) -> None:
        """The replica's newest; the same ones again tell nothing."""
        last, self._last = self._last, stats
        if last is None or last is stats or stats.steps <= last.steps:
            return
        computed, before = stats.prompt_tokens - stats.cache_hits, last.prompt_tokens - last.cache_hits
        prompt, answer = float(computed - before), float(stats.generation_tokens - last.generation_tokens)
        seconds = stats.step_seconds - last.step_seconds
        if prompt < 0 or answer < 0 or seconds <= 0:
            return
        self._pp = _KEPT * self._pp + prompt * prompt
        self._pa = _KEPT * self._pa + prompt * answer
        self._aa = _KEPT * self._aa + answer * answer
        self._ps = _KEPT * self._ps + prompt * seconds
        self._as = _KEPT * self._as + answer * seconds
        self._fit()

    def _fit(self) -> None:
        """Where only one kind was seen, or both always alike, the other keeps its ratio to it."""
        spread = self._pp * self._aa - self._pa * self._pa
        if spread > 1e-3 * self._pp * self._aa > 0:
            prompt = (self._ps * self._aa - self._as * self._pa) / spread
            answer = (self._as * self._pp - self._ps * self._pa) / spread
            if prompt > 0 and answer > 0:
                self.prompt_seconds, self.answer_seconds = prompt, answer
                return
        expected = self._pp * self.prompt_seconds + self._pa * self.answer_seconds
        expected += self._aa * self.answer_seconds + self._pa * self.prompt_seconds
        if expected > 0:
            scale = (self._ps + self._as) / expected
            self.prompt_seconds *= scale
            self.answer_seconds *= scale
