"""Parts of messages and documents: what is said of each besides its text; and by digest the same set has one order,
whatever stands around it stays."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from multiflora_platform.text.message_parts import (
    asks_for_reuse,
    by_digest,
    parts_of,
    with_sorted_parts,
    without_reuse,
)

SUN = {"text": "Sun."}
DOCUMENTS: list[Any] = [{"title": "a", "text": "Rain."}, SUN, "Snow.", {"text": "\ud800"}, SUN]


def test_every_permutation_has_one_order() -> None:
    orders = [by_digest(order) for order in itertools.permutations(DOCUMENTS)]
    assert all(order == orders[0] for order in orders)
    assert sorted(map(str, orders[0])) == sorted(map(str, DOCUMENTS)), "none is lost, none is there twice"


def test_the_order_of_keys_counts_for_nothing() -> None:
    turned = [dict(reversed(d.items())) if isinstance(d, dict) else d for d in reversed(DOCUMENTS)]
    assert by_digest(turned) == by_digest(DOCUMENTS)


def test_runs_of_document_parts_are_sorted_and_nothing_else_moves() -> None:
    first, second, third = ({"type": "document", "text": text} for text in ("Rain.", "Sun.", "Snow."))
    text = {"type": "text", "text": "And then:"}
    one = with_sorted_parts({"role": "user", "content": [first, second, text, third]})
    other = with_sorted_parts({"role": "user", "content": [second, first, text, third]})
    assert one == other
    assert one["content"][2:] == [text, third]


@pytest.mark.parametrize("message", [{"role": "user", "content": "x"}, {"role": "user"}, "x", None, 3])
def test_what_has_no_parts_stays(message: Any) -> None:
    assert with_sorted_parts(message) == message


def test_parts_are_those_of_all_messages_and_what_is_none_is_passed_over() -> None:
    one, two, three = ({"text": text} for text in "abc")
    messages = [
        {"content": [one, "x", 3, two]},
        {"content": "x"},
        {},
        None,
        "x",
        {"content": None},
        {"content": [three]},
    ]
    assert [*parts_of(messages)] == [one, two, three]


@pytest.mark.parametrize(("reuse", "asks"), [("approximate", True), ("exact", False), (None, False), ({}, True)])
def test_exact_reuse_is_what_all_have(reuse: Any, asks: bool) -> None:
    assert asks_for_reuse({"text": "a", "reuse": reuse}) is asks
    assert not asks_for_reuse({"text": "a"})
    assert without_reuse({"text": "a", "reuse": reuse}) == {"text": "a"}
