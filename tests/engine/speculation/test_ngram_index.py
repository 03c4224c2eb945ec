"""The index against a search of the whole text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiflora_engine.speculation.ngram_index import Match, NgramIndex

TEXTS = st.lists(st.integers(0, 3), max_size=40)


def longest_by_search(text: list[int], order: int, longest: int) -> Match | None:
    """The occurrence before the end that shares the most last tokens; the latest of equals."""
    best: Match | None = None
    for position in range(len(text) - 2, -1, -1):
        length = 0
        while length < min(longest, position + 1) and text[position - length] == text[-1 - length]:
            length += 1
        if length >= order and (best is None or length > best.length):
            best = Match(position + 1, length)
    return best


@given(head=TEXTS, tails=st.lists(TEXTS, max_size=3), order=st.integers(1, 4), further=st.integers(0, 5))
def test_read_at_once_or_token_by_token_it_finds_the_longest_match(
    head: list[int], tails: list[list[int]], order: int, further: int
) -> None:
    index, text = NgramIndex(head, order, order + further), list(head)
    for tail in ([], *tails):
        index.extend(tail)
        text += tail
        grown = NgramIndex([], order, order + further)
        grown.extend(text)
        # Equal keys stand in the same chain, which is cut: the same candidates are compared, however it was built.
        assert index.longest_match() == grown.longest_match()
        expected, found = longest_by_search(text, order, order + further), index.longest_match()
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            assert found.length <= expected.length
            assert text[found.follows - found.length : found.follows] == text[-found.length :]
            if len(text) <= 9:  # no n-gram has more occurrences than are compared
                assert found == expected


def test_a_common_n_gram_costs_no_search_of_the_whole_text() -> None:
    index = NgramIndex([1, 2, 7, 1, 2, 8] * 10_000 + [1, 2], 2, 6)
    assert index.longest_match() == Match(59_996, 6)


@pytest.mark.parametrize(("count", "expected"), [(1, [7]), (3, [7, 1, 2]), (7, [7, 1, 2, 7, 1, 2, 7])])
def test_what_follows_is_repeated_where_the_text_ends(count: int, expected: list[int]) -> None:
    index = NgramIndex([5, 1, 2, 7, 1, 2], 2, 6)
    match = index.longest_match()
    assert match == Match(3, 2)
    assert index.following(match.follows, count) == expected


def test_short_texts_have_no_match() -> None:
    for text in ([], [1], [1, 1]):
        assert NgramIndex(text, 2, 4).longest_match() is None
    assert NgramIndex([1, 1, 1], 2, 4).longest_match() == Match(2, 2)
    assert NgramIndex([1, 1], 1, 4).longest_match() == Match(1, 1)
