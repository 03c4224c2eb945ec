"""Cycles are collected while a process is idle, or once in ten minutes, and never in between."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import closing

import pytest

from multiflora_engine.process.garbage import FullCollections


class Node:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def seconds() -> list[float]:
    return [0.0]


@pytest.fixture
def collections(seconds: list[float]) -> Iterator[FullCollections]:
    before = gc.get_threshold()
    with closing(FullCollections(lambda: seconds[0])) as collections:
        yield collections
    assert gc.get_threshold() == before
    gc.unfreeze()


def old_cycle() -> weakref.ref[Node]:
    """A cycle that has outlived the collections of young objects, after as many of those as a full one comes after."""
    node = Node()
    known = weakref.ref(node)
    for _ in range(20):
        gc.collect(1)
    del node
    return known


def test_a_busy_process_is_not_stopped(collections: FullCollections, seconds: list[float]) -> None:
    cycle = old_cycle()
    kept = [[number] for number in range(300_000)]  # Python would have collected all of them by itself
    collections.advance(is_idle=False)
    assert cycle() is not None
    seconds[0] = 600.0
    collections.advance(is_idle=False)
    assert cycle() is None, "its memory is bounded all the same"
    assert len(kept) == 300_000


def test_an_idle_process_is_swept(collections: FullCollections) -> None:
    cycle = old_cycle()
    collections.advance(is_idle=True)
    assert cycle() is None
    assert gc.get_count()[2] == 0


def test_a_python_without_a_third_threshold_is_left_alone() -> None:
    """As 3.14 is: else each idle turn would collect everything."""
    before = gc.get_threshold()
    gc.set_threshold(*before[:2], 0)
    try:
        with closing(FullCollections()) as collections:
            cycle = old_cycle()
            collections.advance(is_idle=True)
            assert cycle() is not None
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def test_where_little_was_made_there_is_nothing_to_do(collections: FullCollections) -> None:
    node = Node()
    known = weakref.ref(node)
    gc.collect(1)
    del node
    collections.advance(is_idle=True)
    assert known() is not None
