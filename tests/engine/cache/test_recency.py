"""Values that were reached in the last seconds, against a list of all times."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from multiflora_engine.cache.recency import Recency


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.integers(0, 700), max_size=60))
def test_against_a_list_of_times(gaps: list[int]) -> None:
    clock = Clock()
    recency = Recency(640.0, clock)
    times: list[float] = []
    for value, gap in enumerate(gaps, 1):
        clock.now += gap
        recency.note(value)
        times.append(clock.now)
        old = sum(time <= clock.now - 640 for time in times)
        surely_old = sum(time <= clock.now - 650 for time in times)
        assert surely_old <= recency.newest_old() <= old
    clock.now += 641
    assert recency.newest_old() == len(times)
