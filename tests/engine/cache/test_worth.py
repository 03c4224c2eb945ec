"""What is seen changes how long blocks are kept, in time and within bounds."""

from __future__ import annotations

from multiflora_engine.cache.worth import COLD, MOST_USES, NEW, Worth


def test_what_was_hit_before_is_worth_more_the_more_so_the_seldomer_new_blocks_are_hit() -> None:
    worth = Worth(100)
    before = worth.impatience[NEW] / worth.impatience[NEW + 1]
    for _ in range(300):
        worth.note_eviction(NEW)
    assert worth.impatience[NEW] / worth.impatience[NEW + 1] > 10 * before > 40


def test_more_uses_are_never_worth_less() -> None:
    worth = Worth(10)
    for _ in range(100):
        worth.note_hit(NEW)
        worth.note_eviction(MOST_USES)
    assert sorted(worth.impatience[NEW:], reverse=True) == worth.impatience[NEW:]
    assert worth.impatience[NEW] >= 4 * worth.impatience[NEW + 1]


def test_a_few_evictions_do_not_settle_it() -> None:
    worth = Worth(1000)
    for _ in range(10):
        worth.note_eviction(NEW + 1)
    assert worth.impatience[NEW + 1] < worth.impatience[NEW]


def test_odds_stay_within_bounds() -> None:
    worth = Worth(1)
    for _ in range(10_000):
        worth.note_eviction(NEW)
        worth.note_hit(COLD)
    assert 1 <= min(worth.impatience) < max(worth.impatience) <= 4e4
