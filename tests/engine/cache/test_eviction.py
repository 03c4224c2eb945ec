"""EvictionQueue: least recently used first, and one owner's flood empties no other's cache."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from multiflora_engine.cache.eviction import EvictionQueue

A, B, QUIET, FLOOD, IDLE, BUSY, OLD = range(7)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_owner_is_plain_lru() -> None:
    queue = EvictionQueue(100)
    for block_id in (3, 1, 2):
        queue.add(block_id, A)
    queue.remove(3)
    queue.add(3, A)
    assert [queue.pop() for _ in range(3)] == [1, 2, 3]
    assert len(queue) == 0


def test_a_flood_evicts_itself() -> None:
    queue = EvictionQueue(100)
    for block_id in range(4):
        queue.add(block_id, QUIET)
    for block_id in range(4, 100):
        queue.add(block_id, FLOOD)
    evicted = [queue.pop() for _ in range(80)]
    assert evicted == list(range(4, 84))
    assert all(block_id in queue for block_id in range(4))


def test_an_idle_owner_loses_its_protection() -> None:
    clock = Clock()
    queue = EvictionQueue(100, protection=300, clock=clock)
    queue.add(0, IDLE)
    clock.now = 301
    for block_id in range(1, 10):
        queue.add(block_id, BUSY)
    assert queue.pop() == 0


def test_the_largest_holder_is_found_again_as_sizes_change() -> None:
    queue = EvictionQueue(100)
    queue.add(0, OLD)
    for block_id in range(1, 6):
        queue.add(block_id, A)
    for block_id in range(6, 10):
        queue.add(block_id, B)
    # OLD is within its share; A is largest until both hold four, then they give in turn.
    assert queue.pop() == 1
    assert Counter("a" if queue.pop() < 6 else "b" for _ in range(4)) == {"a": 2, "b": 2}
    assert 0 in queue


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "pop"]), st.integers(0, 15), st.integers(1, 3))))
def test_against_a_model(actions: list[tuple[str, int, int]]) -> None:
    """The queue against a list that is searched: the victim is the oldest, or the oldest of a largest holder."""
    queue = EvictionQueue(100, clock=Clock())
    model: dict[int, int] = {}
    for action, block_id, owner in actions:
        if action == "add" and block_id not in model:
            queue.add(block_id, owner)
            model[block_id] = owner
        elif action == "remove" and block_id in model:
            queue.remove(block_id)
            del model[block_id]
        elif action == "pop" and model:
            held = Counter(model.values())
            oldest = next(iter(model))
            allowed = {oldest}
            if held[model[oldest]] * len(held) <= len(model):
                largest = [name for name in held if held[name] == max(held.values())]
                allowed = {next(b for b in model if model[b] == name) for name in largest}
            victim = queue.pop()
            assert victim in allowed
            del model[victim]
        assert len(queue) == len(model)
