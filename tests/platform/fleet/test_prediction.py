"""Which of several predictions is taken, and what is told as the reason."""

from __future__ import annotations

import pytest

from multiflora_platform.fleet.pace import Pace
from multiflora_platform.fleet.prediction import Prediction, soonest

PACE = Pace()
TOKENS = 400


def home(one: Prediction) -> bytes:
    return one.replica.encode()


def one(
    replica: str, cached: int = 0, pending: int = 0, running: int = 0, adapter: float = 0.0, slower: float = 1.0
) -> Prediction:
    seconds = (pending + TOKENS - cached) * PACE.prompt_seconds + running * PACE.answer_seconds
    return Prediction(replica, cached, pending, running, adapter, seconds * slower + adapter)


@pytest.mark.parametrize(
    ("predictions", "replica", "reason"),
    [
        ([one("0")], "0", "only"),
        ([one("0"), one("1", cached=320)], "1", "cached"),
        ([one("0", pending=100), one("1")], "1", "idle"),
        ([one("0", running=1), one("1")], "1", "idle"),
        ([one("0", adapter=0.05), one("1")], "1", "adapter"),
        ([one("0", slower=1.5), one("1")], "1", "faster"),
        # Idle it would be sooner there, but what it has cached spares more than what waits.
        ([one("0", cached=320, pending=100), one("1")], "0", "cached"),
        # As soon as the other, to a quarter: the one that has more leaves more to the others.
        ([one("0", cached=320, pending=400), one("1")], "0", "cached"),
        ([one("0", cached=320, pending=500), one("1")], "1", "idle"),
        ([one("1"), one("0")], "0", "tie"),
        # What a token costs is measured, so it is never quite the same: the home decides all the same.
        ([one("1"), one("0", slower=1.2)], "0", "tie"),
        ([one("0"), one("1", slower=1.2)], "0", "tie"),
    ],
)
def test_the_reason_is_what_sets_it_apart_from_the_next_best(
    predictions: list[Prediction], replica: str, reason: str
) -> None:
    decision = soonest(predictions, PACE, home)
    assert (decision.chosen.replica, decision.reason) == (replica, reason)
    others = [other for other in predictions if other is not decision.chosen]
    assert decision.runner_up in (others or [None])


def test_the_runner_up_is_the_next_best() -> None:
    far, near, best = one("far", pending=900), one("near", cached=80), one("best", cached=320)
    assert soonest([far, near, best], PACE, home).runner_up == near
    twin = one("a", cached=320)
    assert soonest([far, near, best, twin], PACE, home)[:2] == (twin, best)
