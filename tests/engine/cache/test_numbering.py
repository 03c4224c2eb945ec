"""Numbering: one number for a name while rows carry it, and none of what came and went stays."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from multiflora_engine.cache.numbering import Numbering

NAMES = ("a", "b", "c")


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(NAMES), st.integers(1, 3))))
def test_against_a_counter(changes: list[tuple[bool, str, int]]) -> None:
    numbering: Numbering[str] = Numbering()
    rows: Counter[str] = Counter()
    for adds, name, count in changes:
        if adds:
            number = numbering.add(name, count)
            assert number == numbering.number(name) > 0
            rows[name] += count
        elif rows[name]:
            numbering.remove(numbering.number(name))
            rows[name] -= 1
        numbers = {name: numbering.number(name) for name in NAMES}
        carried = [name for name in NAMES if rows[name]]
        assert [name for name in NAMES if numbers[name]] == carried
        assert len({numbers[name] for name in carried}) == len(carried)
        assert all(numbering.name(numbers[name]) == name for name in carried)
        assert all(numbering.count(numbers[name]) == rows[name] for name in carried)


def test_a_thousand_names_in_turn_take_one_number() -> None:
    numbering: Numbering[str] = Numbering()
    numbers = set()
    for serial in range(1000):
        number = numbering.add(f"client {serial}")
        numbers.add(number)
        numbering.remove(number)
    assert len(numbers) == 1
