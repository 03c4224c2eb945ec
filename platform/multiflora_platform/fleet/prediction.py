"""When each replica would have a request's first token, which of them gets it, and why. Knows numbers alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from multiflora_platform.fleet.pace import Pace

_AS_SOON = 1.25
"""Times the soonest: of those that are no later, the one that has most of the prompt leaves most to the others."""


class Prediction(NamedTuple):
    """Of one replica. cached: of the prompt's tokens, those that it has, or will have when it comes to it. pending:
    tokens of prompts that stand before it. running: answers that are written meanwhile. adapter_seconds: until the
    request's adapter is in a slot. seconds: to the first token, of all that."""

    replica: str
    cached: int
    pending: int
    running: int
    adapter_seconds: float
    seconds: float


class Decision(NamedTuple):
    """runner_up: None where there is no other. reason: what sets the chosen one apart from it, in a word: cached, idle,
    adapter, faster, tie or only."""

    chosen: Prediction
    runner_up: Prediction | None
    reason: str


def soonest(predictions: Sequence[Prediction], pace: Pace, home: Callable[[Prediction], bytes]) -> Decision:
    """pace: the measure of what waits, one for all, so that what is equal is equal. home: decides between equals."""
    if len(predictions) == 1:
        return Decision(predictions[0], None, "only")
    limit = _AS_SOON * min(one.seconds for one in predictions)

    def order(one: Prediction) -> tuple[int, float, float, bytes]:
        return -one.cached, one.adapter_seconds, _work(one, pace), home(one)

    near = sorted((one for one in predictions if one.seconds <= limit), key=order)
    chosen = near[0]
    if len(near) > 1:
        return Decision(chosen, near[1], _advantage(chosen, near[1], pace) or "tie")
    runner_up = min((one for one in predictions if one is not chosen), key=lambda one: one.seconds)
    return Decision(chosen, runner_up, _advantage(chosen, runner_up, pace) or "faster")


def _work(one: Prediction, pace: Pace) -> float:
    return pace.seconds(one.pending, one.running)


def _advantage(chosen: Prediction, other: Prediction, pace: Pace) -> str | None:
    """What spares most; None where nothing does."""
    spared = {
        "cached": (chosen.cached - other.cached) * pace.prompt_seconds,
        "adapter": other.adapter_seconds - chosen.adapter_seconds,
        "idle": _work(other, pace) - _work(chosen, pace),
    }
    reason = max(spared, key=spared.__getitem__)
    return reason if spared[reason] > 0 else None
