"""Values that change are told by how they are written, and only where nothing else differs."""

from __future__ import annotations

import pytest

from multiflora_platform.insight.changing_values import kind_of_value
from multiflora_platform.text.common_beginning import num_alike

AFTER = " is what the header says."
SAME: dict[tuple[str, str], str] = {
    ("2026-11-29", "2026-11-30"): "timestamp",
    ("2026-11-30T09:59:59Z", "2026-11-30T10:00:00Z"): "timestamp",
    ("2026-11-30 10:00:00.123 +01:00", "2026-11-30 10:00:00.987 +01:00"): "timestamp",
    ("20261130T095959Z", "20261130T100000Z"): "timestamp",
    ("11/29/2026, 9:59 AM", "11/30/2026, 10:00 AM"): "timestamp",
    ("30.11.2026", "1.12.2026"): "timestamp",
    ("Sunday, 29 November 2026", "Monday, 30 November 2026"): "timestamp",
    ("Nov 30, 2026", "Dec 1, 2026"): "timestamp",
    ("Mon, 30 Nov 2026 09:59:59 GMT", "Tue, 1 Dec 2026 10:00:00 GMT"): "timestamp",
    ("9:59", "10:00"): "timestamp",
    ("1795989599", "1795989600"): "timestamp",
    ("1795989599123", "1795989600456"): "timestamp",
    ("2f1c9b1e-66a1-4c11-8a44-0c5d2a7be001", "9d0a77f0-1b2c-4e5f-9a3b-7c6d5e4f3a21"): "nonce",
    ("4f2a9c1d", "4f2b07ee"): "nonce",
    ("req_8fK2mPq9ZrTs", "req_8fLw31xYvBnM"): "nonce",
    ("17", "18"): "counter",
    ("999", "1000"): "counter",
}
OTHERS = [
    ("18", "17"),
    ("17", "91234"),
    ("1.5", "1.6"),
    ("v17b", "v18b"),
    ("everybody", "nobody"),
    ("facade", "decade"),
    ("Sunday", "Monday"),
    ("4f2a9c1d", "4f2b07eea1"),
    ("internationally", "internationalis"),
    ("17", "x"),
]


def kind(theirs: str, ours: str, after: str = AFTER, other_after: str = AFTER) -> str | None:
    one, other = f"What stands here: {theirs}{after}", f"What stands here: {ours}{other_after}"
    same = num_alike(one, other)
    return kind_of_value(one[:same], one[same:], other[same:])


@pytest.mark.parametrize("values", SAME, ids=str)
def test_a_value_that_changes_is_named(values: tuple[str, str]) -> None:
    assert kind(*values) == SAME[values]
    assert kind(*values, "", "") == SAME[values]
    assert kind(*values, other_after=" is another text.") is None


@pytest.mark.parametrize("values", OTHERS, ids=str)
def test_what_only_looks_like_one_is_not(values: tuple[str, str]) -> None:
    assert kind(*values) is None
