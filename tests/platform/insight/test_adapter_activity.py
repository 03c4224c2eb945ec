"""Each adapter has its own last answers, and forgets the oldest."""

from __future__ import annotations

import pytest

from multiflora_platform.insight import adapter_activity
from multiflora_platform.insight.adapter_activity import AdapterActivity


def test_a_busy_adapter_leaves_the_numbers_of_a_quiet_one() -> None:
    activity = AdapterActivity(lambda: 100.0)
    activity.asked("quiet", 1.0)
    activity.ended("quiet", 7.0, is_error=False)
    for i in range(5000):
        activity.asked("busy", 2.0 + i)
        activity.ended("busy", float(i), is_error=False)
    uses = activity.all()
    assert uses["quiet"] == (1.0, 1, 7.0, 1, 0.0, 0.0)
    assert uses["busy"] == (5001.0, 100, 4995.0, 100, 0.0, 0.0)  # the 96th of 4900 to 4999


def test_the_share_of_errors_is_of_the_last_requests_that_ended() -> None:
    activity = AdapterActivity(lambda: 0.0)
    activity.asked("sql", 0.0)
    assert activity.all()["sql"].error_share is None
    for number in range(150):
        activity.ended("sql", None if number % 10 == 0 else 0.1, is_error=number >= 100 and number % 10 == 0)
    use = activity.all()["sql"]
    assert (use.ended, use.error_share, use.timed_answers) == (100, 0.05, 100)


def test_speed_is_the_mean_of_the_last_whole_seconds() -> None:
    now = 100.0
    activity = AdapterActivity(lambda: now)
    activity.asked(None, now)
    activity.wrote(None, 10)
    now = 104.5
    activity.wrote(None, 10)
    now = 104.9
    activity.wrote(None, 10)
    assert activity.all()[None].tokens_per_second == 1.0  # the second that is not over does not count
    now = 105.0
    assert activity.all()[None].tokens_per_second == 3.0
    now = 111.0
    assert activity.all()[None].tokens_per_second == 2.0
    now = 130.0
    activity.wrote(None, 5)
    assert activity.all()[None].tokens_per_second == 0.0
    activity.wrote("never asked", 5)
    assert list(activity.all()) == [None]


def test_the_longest_unused_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_activity, "_MOST_ADAPTERS", 2)
    activity = AdapterActivity(lambda: 0.0)
    for name in ("a", "b", "a", "c"):
        activity.asked(name, 0.0)
    assert list(activity.all()) == ["a", "c"]
    activity.ended("b", 1.0, is_error=False)
    assert list(activity.all()) == ["a", "c"]
