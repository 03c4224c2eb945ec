"""The number of engines of a group on Ray: the rule of one host, from what its engines have told last."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from multiflora_platform.on_ray.load_policy import LoadPolicy, load_of

IDLE = {"queue_seconds": 0.0, "kv_use": 0.1, "seats": 0.0, "hot_blocks": 0.0, "blocks": 100.0}
BUSY = {**IDLE, "queue_seconds": 3.0}


def context(*told: dict[str, float], target: int | None = None) -> Any:
    """Engines that have told something else before."""
    series = {
        name: {
            number: [SimpleNamespace(timestamp=2.0, value=one[name]), SimpleNamespace(timestamp=1.0, value=99.0)]
            for number, one in enumerate(told)
            if name in one
        }
        for name in IDLE
    }
    return SimpleNamespace(
        current_num_replicas=len(told),
        target_num_replicas=len(told) if target is None else target,
        running_replicas=range(len(told)),
        raw_metrics=series,
    )


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def policy(clock: Clock) -> LoadPolicy:
    return LoadPolicy(1, 4, up_after=10, down_after=60, clock=clock)


def test_engines_are_means_and_what_is_hot_is_added_up() -> None:
    load = load_of([{**BUSY, "hot_blocks": 30.0}, {**IDLE, "hot_blocks": 80.0, "blocks": 90.0}])
    assert (load.replicas, load.queue_seconds, load.hot_blocks, load.blocks) == (2, 1.5, 110, 90)


def test_more_are_wanted_when_prompts_have_waited_for_a_while(policy: LoadPolicy, clock: Clock) -> None:
    assert policy(context(BUSY)) == (1, {})
    clock.now = 9
    assert policy(context(BUSY)) == (1, {})
    clock.now = 11
    assert policy(context(BUSY)) == (3, {})


def test_fewer_are_wanted_only_while_the_rest_hold_what_is_hot(policy: LoadPolicy, clock: Clock) -> None:
    hot = {**IDLE, "hot_blocks": 90.0}
    for clock.now in (0, 100, 200):
        assert policy(context(hot, hot)) == (2, {})
    for clock.now in (300, 330):
        assert policy(context(IDLE, IDLE)) == (2, {})
    clock.now = 361
    assert policy(context(IDLE, IDLE)) == (1, {})


def test_nothing_is_decided_while_the_number_changes_or_an_engine_has_told_nothing(
    policy: LoadPolicy, clock: Clock
) -> None:
    for clock.now in (0, 20):
        assert policy(context(BUSY, target=2)) == (2, {})
        assert policy(context(BUSY, {})) == (2, {})
        assert policy(context()) == (0, {})
