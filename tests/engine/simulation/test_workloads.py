"""The same seed makes the same trace, and traces are what their names say."""

from __future__ import annotations

from multiflora_engine.simulation.workloads import conversations, loop, one_off_prompts, together


def test_a_seed_makes_one_trace() -> None:
    for make in (lambda seed: one_off_prompts(0.5, 50, seed=seed), lambda seed: conversations(50, seed=seed)):
        assert make(1) == make(1) != make(2)


def test_a_loop_repeats() -> None:
    trace = loop(prompts=3, rounds=2)
    assert trace[:3] == trace[3:]


def test_a_turn_continues_what_came_before_it() -> None:
    seen: set[str] = set()
    continued = 0
    for request in conversations(200):
        new = [block not in seen for block in request.blocks]
        assert sorted(new) == new, "known blocks stand before new ones"
        assert new[-1]
        continued += not new[0]
        seen.update(request.blocks)
    assert continued > 190


def test_two_traces_at_once_keep_their_order() -> None:
    first, second = loop(prompts=5, rounds=4), conversations(10, seed=2)
    both = together(first, second)
    assert [request for request in both if request in first] == first
    assert [request for request in both if request in second] == second
    assert both not in ([*first, *second], [*second, *first])
