"""How long replicas compute a prompt's token and an answer's, learned from what their heartbeats count."""

from __future__ import annotations

import math
from typing import NamedTuple

from multiflora_engine.protocol.messages import EngineStats

_FIRST_PROMPT, _FIRST_ANSWER = 0.5e-3, 5e-3
"""Seconds of a token, until steps were seen: of a small model on a CPU. Only their ratio decides then."""
_KEPT = 0.95
"""Weight of all before, when one more stretch between two heartbeats is seen."""


_HALF_LIFE = 10.0
"""Seconds after which what was seen of one replica counts half."""
_TAKEN_FOR_EQUAL = 2.0
"""Seconds of steps at the common pace that every replica is credited with: a few slow steps say little."""


class Work(NamedTuple):
    """What one replica did between two heartbeats: tokens that it computed, and the seconds of its steps."""

    prompt: float
    answer: float
    seconds: float


class Pace:
    """Of all replicas: seconds = prompt * prompt_seconds + answer * answer_seconds, fitted with decaying weights."""

    def __init__(self) -> None:
        self.prompt_seconds, self.answer_seconds = _FIRST_PROMPT, _FIRST_ANSWER
        # Sums of squares and products of both counts, and of each with the seconds.
        self._pp = self._pa = self._aa = self._ps = self._as = 0.0

    def learn(self, work: Work) -> None:
        prompt, answer, seconds = work
        self._pp = _KEPT * self._pp + prompt * prompt
        self._pa = _KEPT * self._pa + prompt * answer
        self._aa = _KEPT * self._aa + answer * answer
        self._ps = _KEPT * self._ps + prompt * seconds
        self._as = _KEPT * self._as + answer * seconds
        self._fit()

    def seconds(self, prompt: float, answer: float) -> float:
        """That so many tokens take."""
        return prompt * self.prompt_seconds + answer * self.answer_seconds

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


class Slowness:
    """How many times the common pace one replica takes. What was seen fades with time, so that a replica which was slow
    once, and gets nothing for that, is tried again."""

    def __init__(self) -> None:
        self._last: EngineStats | None = None
        self._done, self._at = Work(0.0, 0.0, 0.0), 0.0

    def observe(self, stats: EngineStats, pace: Pace, now: float) -> None:
        """stats: the replica's newest; the same ones again tell nothing. pace: learns from them. now: seconds."""
        last, self._last = self._last, stats
        work = None if last is None or last is stats else _work_between(last, stats)
        if work is None:
            return
        pace.learn(work)
        self._done, self._at = Work(*map(sum, zip(self._left(now), work, strict=True))), now

    def times(self, pace: Pace, now: float) -> float:
        prompt, answer, seconds = self._left(now)
        return (seconds + _TAKEN_FOR_EQUAL) / (pace.seconds(prompt, answer) + _TAKEN_FOR_EQUAL)

    def _left(self, now: float) -> Work:
        """Of what it has done, what still counts."""
        kept = math.exp2((self._at - now) / _HALF_LIFE)
        return Work(*(kept * part for part in self._done))


def _work_between(last: EngineStats, stats: EngineStats) -> Work | None:
    """None where there was none, or where an engine began anew."""
    computed, before = stats.prompt_tokens - stats.cache_hits, last.prompt_tokens - last.cache_hits
    answer = float(stats.generation_tokens - last.generation_tokens)
    work = Work(float(computed - before), answer, stats.step_seconds - last.step_seconds)
    return work if stats.steps > last.steps and min(work) >= 0 and work.seconds > 0 else None
