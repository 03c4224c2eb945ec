"""How a rollout's two versions did since its start, moment by moment: what its verdicts rest on, as curves.

Knows no requests: it is told what the observations and bounds are. The moments stay few however long a rollout runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from multiflora_platform.registry.schemas.rollouts import ArmTimeline, Observed, RolloutTimeline

_MOST = 120
_FIRST_SECONDS = 2.0


@dataclass(frozen=True)
class Moment:
    """As a verdict saw it. at: Unix seconds. Above a bound the candidate is rolled back; None: there is none."""

    at: float
    stable: Observed
    candidate: Observed
    error_rate_bound: float
    p95_seconds_bound: float | None


class Timeline:
    """One rollout's."""

    def __init__(self) -> None:
        self._moments: list[Moment] = []
        self._spacing = _FIRST_SECONDS

    def is_due(self, at: float) -> bool:
        return not self._moments or at >= self._moments[-1].at + self._spacing

    def note(self, moment: Moment) -> None:
        """When there are too many, every other one goes, and the next come half as often."""
        self._moments.append(moment)
        if len(self._moments) > _MOST:
            self._moments = self._moments[::2]
            self._spacing *= 2

    def until(self, now: Moment) -> RolloutTimeline:
        """With the present moment as the last."""
        moments = [*self._moments, now]
        return RolloutTimeline(
            at=[moment.at for moment in moments],
            stable=_arm([moment.stable for moment in moments]),
            candidate=_arm([moment.candidate for moment in moments]),
            error_rate_bound=[moment.error_rate_bound for moment in moments],
            p95_seconds_bound=[moment.p95_seconds_bound for moment in moments],
        )


def _arm(seen: list[Observed]) -> ArmTimeline:
    return ArmTimeline(
        requests=[one.requests for one in seen],
        error_rate=[one.errors / one.requests if one.requests else None for one in seen],
        p95_seconds=[one.p95_seconds for one in seen],
    )


NOTHING_SEEN = RolloutTimeline(at=[], stable=_arm([]), candidate=_arm([]), error_rate_bound=[], p95_seconds_bound=[])
