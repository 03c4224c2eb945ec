"""How long a token takes, as replicas' heartbeats tell, and which replica takes longer than others."""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from multiflora_engine.protocol.messages import EngineStats
from multiflora_platform.fleet.pace import Pace, Slowness


class Replica:
    """One whose tokens take so long."""

    def __init__(self, prompt_seconds: float, answer_seconds: float = 0.0) -> None:
        self.stats = EngineStats(steps=1)
        self._seconds = prompt_seconds, answer_seconds

    def does(self, prompt: int, answer: int = 0) -> EngineStats:
        old, (of_prompt, of_answer) = self.stats, self._seconds
        self.stats = replace(
            old, steps=old.steps + 1, cache_hits=old.cache_hits + 50, prompt_tokens=old.prompt_tokens + prompt + 50,
            generation_tokens=old.generation_tokens + answer,
            step_seconds=old.step_seconds + prompt * of_prompt + answer * of_answer,
        )  # fmt: skip
        return self.stats


def test_the_pace_is_learned_from_heartbeats() -> None:
    pace, slowness, replica = Pace(), Slowness(), Replica(2e-4, 3e-3)
    random_of = random.Random(1)
    for _ in range(60):
        slowness.observe(replica.does(random_of.randrange(2000), random_of.randrange(100)), pace, 0.0)
    assert (pace.prompt_seconds, pace.answer_seconds) == pytest.approx((2e-4, 3e-3))
    slowness.observe(EngineStats(steps=1, step_seconds=0.1), pace, 0.0)
    assert pace.prompt_seconds == pytest.approx(2e-4), "an engine that begins anew counts anew"


def test_what_was_not_seen_keeps_its_ratio() -> None:
    pace, slowness, replica = Pace(), Slowness(), Replica(1e-4)
    for _ in range(30):
        slowness.observe(replica.does(100), pace, 0.0)
    assert pace.prompt_seconds == pytest.approx(1e-4)
    assert pace.answer_seconds / pace.prompt_seconds == pytest.approx(10)


def test_a_slow_replica_is_told_from_an_equal_one_and_forgotten_when_it_rests() -> None:
    pace = Pace()
    replicas = Replica(3e-4), Replica(1e-4), Replica(1e-4)
    slow, fast, other = slownesses = Slowness(), Slowness(), Slowness()
    for second in range(60):
        for replica, slowness in zip(replicas, slownesses, strict=True):
            slowness.observe(replica.does(3000), pace, float(second))
    assert 1.5 < slow.times(pace, 60.0) / fast.times(pace, 60.0) < 3
    assert fast.times(pace, 60.0) == pytest.approx(other.times(pace, 60.0), rel=0.05)
    assert slow.times(pace, 180.0) == pytest.approx(1, abs=0.01)


def test_a_few_slow_steps_say_little() -> None:
    pace, quick, slow = Pace(), Slowness(), Slowness()
    first, second = Replica(1e-4), Replica(1e-4)
    for _ in range(20):
        quick.observe(first.does(500), pace, 0.0)
    slow.observe(second.does(500), pace, 0.0)
    slow.observe(replace(second.does(500), step_seconds=0.2), pace, 0.0)
    assert 1 < slow.times(pace, 0.0) < 1.1
