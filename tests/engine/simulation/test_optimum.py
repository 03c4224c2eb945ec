"""Belady's optimum: by hand, and never below any policy."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiflora_engine.protocol.traced_request import TracedRequest
from multiflora_engine.simulation.optimum import optimum
from multiflora_engine.simulation.replay import POLICIES, replay


def request(blocks: str) -> TracedRequest:
    """Each letter with all before it is a block: equal beginnings are shared."""
    return TracedRequest([f"{hash(blocks[: end + 1]) & (1 << 64) - 1:016x}" for end in range(len(blocks))], len(blocks))


def test_the_block_that_is_used_last_goes_first() -> None:
    trace = [request(letter) for letter in "abcabdad"]
    # Of two blocks, `a` is worth keeping all along and `d` at the end.
    assert optimum(trace, 2).found == 3


def test_tails_go_before_heads() -> None:
    trace = [request("ab"), request("x"), request("ac")]
    assert optimum(trace, 2).found == 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=25),
    st.integers(4, 8),
)
def test_no_policy_finds_more(prompts: list[str], num_blocks: int) -> None:
    trace = [request(prompt) for prompt in prompts]
    best = optimum(trace, num_blocks)
    for policy in POLICIES.values():
        counts = replay(trace, num_blocks, policy)
        assert counts.asked == best.asked
        assert counts.found <= best.found


@pytest.mark.parametrize("num_blocks", [1, 3])
def test_what_is_larger_than_the_pool_is_no_part_of_it(num_blocks: int) -> None:
    counts = optimum([request("abcd"), request("a"), request("a")], num_blocks)
    assert (counts.skipped, counts.found, counts.asked) == (1, 1, 2)
