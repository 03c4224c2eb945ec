"""How far two texts or lists of ids are the same, against counting one by one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from multiflora_platform.text.common_beginning import num_alike


@pytest.mark.parametrize("same", range(6))
@pytest.mark.parametrize(
    ("rest", "other"), [("", ""), ("x", ""), ("", "y"), ("x", "y"), ("xab", "yab"), ("xx", "yyyyy")]
)
def test_as_far_as_both_are_the_same(same: int, rest: str, other: str) -> None:
    both = "abcab"[:same]
    pairs: list[tuple[Sequence[object], Sequence[object]]] = [
        (both + rest, both + other),
        (list((both + rest).encode()), list((both + other).encode())),
    ]
    for one, two in pairs:
        assert num_alike(one, two) == len(both)
