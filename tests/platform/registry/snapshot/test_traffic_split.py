"""Buckets of an alias: exact shares, and no user leaves a version with a growing share."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiflora_platform.registry.snapshot.traffic_split import BUCKETS, bucket, lay_out


@st.composite
def shares(draw):
    versions = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5, unique=True))
    cuts = sorted(draw(st.sets(st.integers(1, 99), min_size=len(versions) - 1, max_size=len(versions) - 1)))
    return dict(zip(versions, (b - a for a, b in zip([0, *cuts], [*cuts, 100], strict=True)), strict=True))


@given(st.lists(shares(), min_size=1, max_size=6))
def test_growing_shares_keep_their_users(moves):
    layout = []
    for wanted in moves:
        before, layout = layout, lay_out(wanted, layout)
        assert Counter(layout) == wanted
        held = Counter(before)
        for version, share in wanted.items():
            if before and share >= held[version]:
                assert all(now == version for old, now in zip(before, layout, strict=True) if old == version)


def test_the_first_layout_is_in_order_of_versions():
    assert lay_out({4: 10, 3: 90}) == [3] * 90 + [4] * 10


def test_users_spread_evenly_and_stay():
    counts = Counter(bucket("1/default", f"user-{i}") for i in range(20_000))
    assert counts.keys() == set(range(BUCKETS))
    assert all(130 < count < 280 for count in counts.values())
    assert bucket("1/default", "anna") == bucket("1/default", "anna")


def test_aliases_divide_users_independently():
    users = [f"user-{i}" for i in range(1000)]
    same = sum(bucket("1/a", user) == bucket("1/b", user) for user in users)
    assert same < 50


@pytest.mark.parametrize("user", ["", "\0", "é", "\ud800", "x" * 10_000])
def test_any_user_has_a_bucket(user):
    assert 0 <= bucket("1/default", user) < BUCKETS
