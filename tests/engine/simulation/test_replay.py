"""The engine's own policy against the best that is possible, on four kinds of traffic."""

from __future__ import annotations

import pytest

from multiflora_engine.protocol.traced_request import TracedRequest
from multiflora_engine.simulation.optimum import optimum
from multiflora_engine.simulation.replay import POLICIES, replay
from multiflora_engine.simulation.workloads import conversations, loop, one_off_prompts

TRACES = {
    "half of the prompts come once": (one_off_prompts(0.5, requests=1200, contexts=15), 320, 0.8),
    "four of five prompts come once": (one_off_prompts(0.8, requests=1500, contexts=12), 300, 0.6),
    "a loop larger than the pool": (loop(prompts=30, rounds=30), 200, 0.0),
    "conversations that grow": (conversations(requests=700, active=16), 560, 1.0),
}


@pytest.mark.parametrize("name", TRACES)
def test_nine_tenths_of_the_optimum(name: str) -> None:
    trace, num_blocks, lru = TRACES[name]
    best = optimum(trace, num_blocks).hit_rate
    assert replay(trace, num_blocks, POLICIES["worth"]).hit_rate >= 0.9 * best
    assert replay(trace, num_blocks, POLICIES["lru"]).hit_rate <= lru * best, "or the trace says nothing"


def test_contexts_that_nothing_asks_for_any_more_make_room() -> None:
    before, after = one_off_prompts(0.5, 400, 10, seed=1), one_off_prompts(0.5, 400, 10, seed=2)
    alone = replay(after, 250, POLICIES["worth"])
    both = replay([*before, *after], 250, POLICIES["worth"])
    first = replay(before, 250, POLICIES["worth"])
    assert both.found - first.found > 0.9 * alone.found


def test_what_is_larger_than_the_pool_is_skipped_and_told() -> None:
    trace = [TracedRequest([f"{number:016x}" for number in range(size)], size) for size in (4, 2, 2)]
    counts = replay(trace, 3, POLICIES["worth"])
    assert (counts.skipped, counts.asked, counts.found) == (1, 4, 2)


def test_background_requests_push_out_nothing_that_was_used() -> None:
    used = TracedRequest(["aa" * 8, "bb" * 8], 2)
    batch = [TracedRequest([f"{number:016x}", f"{number + 500:016x}"], 2, background=True) for number in range(50)]
    assert replay([used, *batch, used], 5, POLICIES["worth"]).found == 2
    assert replay([used, *batch, used], 5, POLICIES["lru"]).found == 0
