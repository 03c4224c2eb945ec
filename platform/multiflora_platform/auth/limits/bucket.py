"""A token bucket: a minute's allowance that refills evenly."""

from __future__ import annotations

from collections.abc import Callable

Clock = Callable[[], float]


class Bucket:
    """Holds up to a minute's allowance. It may go below zero: what was used is owed."""

    def __init__(self, per_minute: int, clock: Clock) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._at = clock()

    @property
    def level(self) -> float:
        now = self._clock()
        self._level = min(self.per_minute, self._level + (now - self._at) * self.per_minute / 60)
        self._at = now
        return self._level

    @level.setter
    def level(self, level: float) -> None:
        self._level, self._at = level, self._clock()

    def resize(self, per_minute: int) -> None:
        """What is left stays, up to the new size."""
        self._level = min(self.level, per_minute)
        self.per_minute = per_minute

    def take(self, amount: float) -> None:
        self._level = self.level - amount

    def seconds_until(self, amount: float) -> float:
        return max(0.0, (amount - self.level) * 60 / self.per_minute)


def sized(bucket: Bucket | None, per_minute: int | None, clock: Clock) -> Bucket | None:
    """The bucket of a policy that may have changed; None where there is no limit."""
    if per_minute is None:
        return None
    if bucket is None:
        return Bucket(per_minute, clock)
    if bucket.per_minute != per_minute:
        bucket.resize(per_minute)
    return bucket
