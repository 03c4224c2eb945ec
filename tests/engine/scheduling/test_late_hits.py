"""Prefills that run already and go on with blocks that others have published meanwhile; patience 0 makes them meet."""

from __future__ import annotations

import logging
import random
from typing import Any

import pytest
from tests.engine.scheduling.test_scheduler import Harness, sizes_of
from tests.engine.test_engine import Machine

from multiflora_engine.core.sequence import Sequence

SHARED = list(range(1, 21))


def harness_of(budget: int, **config: Any) -> Harness:
    """In its first step "a" computes 20 tokens, and what is left of the budget goes to "b", which begins alike."""
    harness = Harness(max_num_batched_tokens=budget, **{"prefix_wait_steps": 0, **config})
    harness.add("a", SHARED)
    return harness


def test_a_prefill_goes_on_behind_what_another_one_has_published() -> None:
    harness = harness_of(24)
    harness.add("b", [*SHARED, *[9] * 13])
    assert harness.step() == {("a", 0): 20, ("b", 0): 4}
    assert harness.step() == {("a", 0): 1, ("b", 0): 13}
    deltas = {delta.request_id: delta for delta in harness.deltas}
    # Its first block and what is behind the shared ones are its own.
    assert (deltas["b"].cached_tokens, deltas["b"].cache_write_tokens) == (16, 12)
    assert harness.scheduler.stats().cache_hits == 16


def test_a_block_that_is_half_computed_is_replaced() -> None:
    harness = harness_of(26)
    harness.add("b", [*SHARED, *[9] * 13])
    assert harness.step() == {("a", 0): 20, ("b", 0): 6}
    free = harness.scheduler.pool.num_free
    assert harness.step() == {("a", 0): 1, ("b", 0): 13}
    assert harness.deltas[1].cached_tokens == 14
    # Four blocks of its own were given back; "a" got one for its next token.
    assert harness.scheduler.pool.num_free == free + 4 - 1
    harness.scheduler.abort("a")
    harness.scheduler.abort("b")
    assert harness.scheduler.pool.num_free == 64


def test_the_last_token_is_always_computed() -> None:
    harness = harness_of(24)
    harness.add("b", SHARED)
    harness.step()
    assert harness.step() == {("a", 0): 1, ("b", 0): 4}
    assert harness.deltas[1].cached_tokens == 12


@pytest.mark.parametrize("fields", [{"cache_salt": "x"}, {"adapter_digest": "x"}, {"prompt_logprobs": 1}])
def test_what_could_not_start_on_them_does_not_go_on_with_them(fields: dict[str, Any]) -> None:
    harness = harness_of(24)
    harness.add("b", [*SHARED, *[9] * 13], **fields)
    harness.step()
    assert harness.step() == {("a", 0): 1, ("b", 0): 23}
    assert harness.step() == {("a", 0): 1, ("b", 0): 6}
    assert harness.deltas[1].cached_tokens == 0


def test_without_prefix_caching_nothing_is_taken() -> None:
    harness = harness_of(24, enable_prefix_caching=False)
    harness.add("b", [*SHARED, *[9] * 13])
    harness.step()
    assert harness.step() == {("a", 0): 1, ("b", 0): 23}


def test_blocks_that_another_leaves_behind_are_taken_and_count_for_whose_prefill_it_is() -> None:
    harness = harness_of(24)
    harness.add("b", [*SHARED, *[9] * 13], cache_owner="second")
    harness.step()
    harness.scheduler.abort("a")
    pool = harness.scheduler.pool
    assert pool.num_used("second") == 9
    assert harness.step() == {("b", 0): 13}
    assert pool.num_used("second") == 9


@pytest.mark.parametrize(("background", "uses"), [(False, 2), (True, 1)])
def test_what_is_taken_was_used_once_more_by_those_that_a_client_waits_for(background: bool, uses: int) -> None:
    harness = harness_of(24)
    harness.add("b", [*SHARED, *[9] * 13], background=background)
    harness.step()
    harness.step()
    pool = harness.scheduler.pool
    table = next(sequence for sequence in harness.scheduler._live.running if sequence.request_id == "b").block_table
    assert [pool._evictable.uses(block_id) for block_id in table[1:5]] == [uses] * 4


def test_who_waits_for_the_next_block_waits_for_it_no_more() -> None:
    harness = harness_of(24)
    harness.add("b", [*SHARED, *[9] * 13])
    harness.step()
    harness.step()
    assert not harness.scheduler._cache._computing


def test_what_a_preempted_one_takes_is_not_counted() -> None:
    harness = harness_of(24)
    harness.add("b", [*SHARED, *[9] * 13])
    harness.step()
    next(sequence for sequence in harness.scheduler._live.running if sequence.request_id == "b").epoch = 1
    assert harness.step() == {("a", 0): 1, ("b", 0): 13}
    assert harness.deltas[1].cached_tokens == 0
    assert harness.scheduler.stats().cache_hits == 0


def test_a_chunk_in_flight_ends_before_blocks_are_taken() -> None:
    """On a device that runs ahead a step may fail when it is collected; it is executed again, into its own blocks."""
    machine = Machine(runs_ahead=True, max_num_batched_tokens=8, prefix_wait_steps=0)
    shared = [1, 2, 3] * 6 + [4, 5]
    first = machine.add(shared, max_tokens=4)
    second = machine.add([*shared, *[6] * 13], max_tokens=1)
    sizes = []
    for _ in range(5):
        machine.step()
        (launched,) = machine.engine._in_flight
        sizes.append(sizes_of(launched.batch).get((second, 0), 0))
    # It starts on two blocks, computes the third, and leaves out the step in which the fourth is published.
    assert sizes == [0, 0, 4, 0, 7]
    machine.run()
    assert machine.deltas[second, 0][0].cached_tokens == 16
    for request in (first, second):
        assert machine.output(request) == machine.alone(request)
    machine.check_idle()


def test_a_chunk_looks_one_hash_up_where_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = Harness(max_num_batched_tokens=24)
    harness.add("a", 120)
    harness.step()
    asked = []
    find = harness.scheduler.pool.find
    monkeypatch.setattr(harness.scheduler.pool, "find", lambda hash: asked.append(hash) or find(hash))
    harness.step()
    sequence = harness.scheduler._live.running[0]
    assert asked == [sequence.block_hashes[24 // 4]]


def random_life(seed: int) -> tuple[Machine, list[str], int]:
    """Requests of one beginning that come at any time, some of which are aborted or poisonous, in chunks so small that
    several prefills share each step; how many tokens they took from each other."""
    chance = random.Random(seed)
    machine = Machine(
        num_blocks=chance.choice([14, 40]),
        runs_ahead=chance.random() < 0.5,
        drafts=chance.random() < 0.5,
        tiers=chance.random() < 0.3,
        prefix_wait_steps=0,
        max_num_batched_tokens=chance.choice([7, 10, 16]),
        is_compute_bound=chance.random() < 0.5,
    )
    machine.device.fails_late = chance.random() < 0.5
    schedule_chunk, most = machine.scheduler._schedule_chunk, chance.choice([3, 4, 5])
    machine.scheduler._schedule_chunk = (  # type: ignore[method-assign]
        lambda sequence, budget, entries: schedule_chunk(sequence, min(budget, most), entries)
    )
    attach, taken = machine.scheduler._late_hits.attach, list[int]()

    def counting(sequence: Sequence) -> int | None:
        found = attach(sequence)
        taken.append(found or 0)
        return found

    machine.scheduler._late_hits.attach = counting  # type: ignore[method-assign]
    spoiled = []
    for _ in range(10):
        shared = [1, 2, 3, 4, 5, 6, 7, 8, 9] * 3
        request = machine.add(
            [*shared[: chance.choice([13, 20, 27])], *[chance.randrange(1, 11)] * chance.randrange(5)],
            adapter=chance.choice([None, None, None, "a"]),
            salt=chance.choice(["", "", "", "x"]),
            priority=chance.choice([0, 0, -1]),
            n=chance.choice([1, 1, 2]),
            max_tokens=chance.randrange(1, 6),
        )
        for _ in range(chance.randrange(2)):
            machine.step()
        if chance.random() < 0.2:
            spoiled.append(request)
            if chance.random() < 0.5:
                machine.engine.abort(request)
            else:
                machine.device.poisonous.add(request)
    machine.run()
    return machine, spoiled, sum(taken)


def test_random_lives_say_what_each_would_alone(caplog: pytest.LogCaptureFixture) -> None:
    """The simulated device checks that each slot which a step reads holds the KV of just that prefix."""
    caplog.set_level(logging.CRITICAL)
    total = 0
    for seed in range(40):
        machine, spoiled, taken = random_life(seed)
        total += taken
        machine.check_idle()
        assert not machine.scheduler._cache._computing
        for id in machine.requests.keys() - spoiled:
            for index in range(machine.requests[id].params.num_sequences):
                assert machine.output(id, index) == machine.alone(id, index), seed
    assert total > 100, "prefills took blocks from each other"
