"""What a rollout's two versions did, in memory, and when that is enough to turn back. Knows no database.

Each server has its own; with the others', they are what all servers have seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import msgspec

from multiflora_platform.percentiles import percentile
from multiflora_platform.registry.changes.rollout_timeline import Moment, Timeline
from multiflora_platform.registry.schemas.rollouts import Observed, RolloutTimeline, ShadowObserved
from multiflora_platform.registry.snapshot.snapshot import RolloutEntry

WINDOW = 1000
ARMS = ("stable", "candidate", "shadow")


class RequestOutcome(msgspec.Struct, frozen=True, array_like=True):
    """Of one request. refused: the engine could not load the version. seconds: from arrival to end."""

    ok: bool
    seconds: float
    refused: bool = False


@dataclass
class Arm:
    """One version's recent requests, and the seconds of those that went well."""

    outcomes: deque[RequestOutcome] = field(default_factory=lambda: deque(maxlen=WINDOW))

    @property
    def errors(self) -> int:
        return sum(not outcome.ok for outcome in self.outcomes)

    def percentile(self, percent: int) -> float | None:
        return percentile((outcome.seconds for outcome in self.outcomes if outcome.ok), percent)

    @property
    def observed(self) -> Observed:
        p50, p95 = self.percentile(50), self.percentile(95)
        return Observed(requests=len(self.outcomes), errors=self.errors, p50_seconds=p50, p95_seconds=p95)


class Shadow(msgspec.Struct):
    """Sums over shadow runs. leading: the share of leading tokens that were equal, of those that can be compared."""

    requests: int = 0
    errors: int = 0
    skipped: int = 0
    exact: int = 0
    leading: list[float] = msgspec.field(default_factory=list)
    tokens: tuple[int, int] = (0, 0)
    seconds: tuple[float, float] = (0.0, 0.0)

    def compare(
        self, stable: Sequence[int], candidate: Sequence[int], seconds: tuple[float, float], comparable: bool
    ) -> None:
        """seconds: (stable, candidate)."""
        self.requests += 1
        self.tokens = (self.tokens[0] + len(stable), self.tokens[1] + len(candidate))
        self.seconds = (self.seconds[0] + seconds[0], self.seconds[1] + seconds[1])
        if comparable:
            self.exact += list(stable) == list(candidate)
            self.leading.append(agreement(stable, candidate))
            del self.leading[:-WINDOW]

    def add(self, other: Shadow) -> None:
        self.requests += other.requests
        self.errors += other.errors
        self.skipped += other.skipped
        self.exact += other.exact
        self.leading = self.leading + other.leading
        self.tokens = (self.tokens[0] + other.tokens[0], self.tokens[1] + other.tokens[1])
        self.seconds = (self.seconds[0] + other.seconds[0], self.seconds[1] + other.seconds[1])

    @property
    def observed(self) -> ShadowObserved:
        return ShadowObserved(
            requests=self.requests,
            errors=self.errors,
            skipped=self.skipped,
            compared=len(self.leading),
            exact=self.exact,
            agreement=sum(self.leading) / len(self.leading) if self.leading else None,
            length_ratio=self.tokens[1] / self.tokens[0] if self.tokens[0] else None,
            latency_ratio=self.seconds[1] / self.seconds[0] if self.seconds[0] else None,
        )


class Step(msgspec.Struct):
    """The present share of the users: which one, since when (Unix seconds), and how many of the candidate's requests it
    has had."""

    percent: int | None = None
    since: float = 0.0
    samples: int = 0


class _Written(msgspec.Struct, array_like=True):
    """Observations as one server tells them to another."""

    stable: list[RequestOutcome]
    candidate: list[RequestOutcome]
    shadow: Shadow
    step: Step


class Observations:
    """One rollout's."""

    def __init__(self) -> None:
        self.stable = Arm()
        self.candidate = Arm()
        self.shadow = Shadow()
        self.step = Step()
        self._timeline = Timeline()

    @classmethod
    def read(cls, written: str) -> Observations:
        """Another server's."""
        told, read = msgspec.json.decode(written, type=_Written), cls()
        read.stable.outcomes.extend(told.stable)
        read.candidate.outcomes.extend(told.candidate)
        read.shadow, read.step = told.shadow, told.step
        return read

    def written(self) -> str:
        told = _Written(list(self.stable.outcomes), list(self.candidate.outcomes), self.shadow, self.step)
        return msgspec.json.encode(told).decode()

    def with_others(self, others: Sequence[Observations], percent: int) -> Observations:
        """Of all servers; its moments are noted by this one. percent: the present share; what a server counts at
        another one is not of its step."""
        parts, joined = [self, *others], Observations()
        joined.stable = Arm(deque(chain.from_iterable(part.stable.outcomes for part in parts)))
        joined.candidate = Arm(deque(chain.from_iterable(part.candidate.outcomes for part in parts)))
        joined._timeline = self._timeline
        for part in parts:
            joined.shadow.add(part.shadow)
        steps = [part.step for part in parts if part.step.percent == percent]
        if steps:
            since, samples = min(step.since for step in steps), sum(step.samples for step in steps)
            joined.step = Step(percent, since, samples)
        return joined

    def count_step(self, percent: int, now: float) -> None:
        """One of the candidate's requests has ended at this share of the users. now: Unix seconds."""
        if percent != self.step.percent:
            self.step = Step(percent, now)
        self.step.samples += 1

    def step_left(self, rollout: RolloutEntry, now: float) -> float | None:
        """Seconds until the next step is due; None as long as it needs more requests, or there are no steps."""
        if not rollout.bounds.get("steps") or self.step.percent != rollout.percent:
            return None
        if self.step.samples < rollout.bounds["min_samples"]:
            return None
        return float(self.step.since + rollout.bounds["step_seconds"] - now)

    def note(self, bounds: Mapping[str, Any], now: float) -> None:
        """A request has ended. now: Unix seconds."""
        if self._timeline.is_due(now):
            self._timeline.note(self._moment(bounds, now))

    def timeline(self, bounds: Mapping[str, Any], now: float) -> RolloutTimeline:
        """Until now (Unix seconds)."""
        return self._timeline.until(self._moment(bounds, now))

    def evidence(self, bounds: Mapping[str, Any], now: float) -> dict[str, Any]:
        """As it is now (Unix seconds), in the form that a rollout's row keeps."""
        return {**self.arms, "timeline": msgspec.to_builtins(self.timeline(bounds, now))}

    def _moment(self, bounds: Mapping[str, Any], now: float) -> Moment:
        return Moment(
            now,
            self.stable.observed,
            self.candidate.observed,
            self._usual_rate(bounds) + bounds["max_error_rate"],
            self._p95_bound(bounds),
        )

    @property
    def arms(self) -> dict[str, Any]:
        """As it is now."""
        return {arm: msgspec.to_builtins(getattr(self, arm).observed) for arm in ARMS}

    def verdict(self, rollout: RolloutEntry) -> str | None:
        """Why the rollout has to be rolled back; None as long as it may go on."""
        outcomes, bounds = self.candidate.outcomes, rollout.bounds
        if any(outcome.refused for outcome in outcomes):
            return f"the engine could not load version {rollout.candidate}"
        if len(outcomes) < bounds["min_samples"]:
            return None
        return self._too_faulty(bounds) or self._too_slow(bounds)

    def _too_faulty(self, bounds: Mapping[str, Any]) -> str | None:
        rate, bound = self.candidate.errors / len(self.candidate.outcomes), bounds["max_error_rate"]
        usual = self._usual_rate(bounds)
        if rate - usual <= bound:
            return None
        if not self._is_stable_known(bounds):
            return f"{rate:.1%} of the candidate's requests failed; the bound is {bound:.1%}"
        return (
            f"{rate:.1%} of the candidate's requests failed, {usual:.1%} of the stable version's; "
            f"the bound is {bound:.1%} more"
        )

    def _too_slow(self, bounds: Mapping[str, Any]) -> str | None:
        p95, bound = self.candidate.percentile(95), self._p95_bound(bounds)
        if p95 is None or bound is None or p95 <= bound:
            return None
        if bound == bounds["max_p95_seconds"]:
            return f"the candidate's P95 latency is {p95:.3f} s; the bound is {bound:g} s"
        ratio = bounds["max_p95_ratio"]
        times = ratio * p95 / bound
        return f"the candidate's P95 latency is {times:.2f} times the stable version's; the bound is {ratio:g}"

    def _is_stable_known(self, bounds: Mapping[str, Any]) -> bool:
        return len(self.stable.outcomes) >= int(bounds["min_samples"])

    def _usual_rate(self, bounds: Mapping[str, Any]) -> float:
        """What fails in both arms alike is not the candidate's fault. A stable version with few requests counts as one
        without errors."""
        return self.stable.errors / len(self.stable.outcomes) if self._is_stable_known(bounds) else 0.0

    def _p95_bound(self, bounds: Mapping[str, Any]) -> float | None:
        """Seconds: the lower of the two bounds, as far as there are any yet."""
        seconds, ratio, stable = bounds["max_p95_seconds"], bounds["max_p95_ratio"], self.stable.percentile(95)
        is_relative = ratio is not None and stable is not None and self._is_stable_known(bounds)
        found = [seconds, ratio * stable if is_relative else None]
        return min((bound for bound in found if bound is not None), default=None)


def agreement(first: Sequence[int], second: Sequence[int]) -> float:
    """How many leading tokens are equal, of the longer one's; 1 for two empty ones."""
    longest = max(len(first), len(second))
    equal = 0
    for left, right in zip(first, second, strict=False):
        if left != right:
            break
        equal += 1
    return equal / longest if longest else 1.0
