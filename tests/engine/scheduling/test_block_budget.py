"""What is used again outlives prompts that come once and batch jobs; background requests get on, and evict little."""

from __future__ import annotations

from typing import Any

import pytest
from tests.engine.scheduling.test_scheduler import Harness


def run(harness: Harness, id: str, prompt: list[int], **fields: Any) -> int:
    """To its end, which takes one token unless fields say otherwise; how many tokens were cached."""
    harness.add(id, prompt, **{"max_tokens": 1, **fields})
    cached = 0
    while harness.scheduler.has_work:
        harness.step()
        cached = max([cached, *(delta.cached_tokens for delta in harness.deltas)])
    return cached


def one_off(number: int, length: int = 40) -> list[int]:
    return [1000 + number, *range(2, length + 1)]


CONTEXT = list(range(500, 540))


def hit_twice(harness: Harness) -> None:
    assert [run(harness, f"context{number}", [*CONTEXT, 5, 6, number]) for number in range(3)] == [0, 40, 40]


def test_what_was_hit_twice_survives_prompts_that_come_once() -> None:
    harness = Harness(num_blocks=32)
    hit_twice(harness)
    assert sum(run(harness, f"once{number}", one_off(number)) for number in range(20)) == 0
    assert harness.scheduler.stats().evictions > 150
    assert run(harness, "again", [*CONTEXT, 9]) == 40


def test_what_was_hit_twice_survives_a_batch_of_three_times_the_pool() -> None:
    harness = Harness(num_blocks=32)
    hit_twice(harness)
    for number in range(10):
        run(harness, f"line{number}", one_off(number), background=True)
    assert run(harness, "again", [*CONTEXT, 9]) == 40


@pytest.mark.parametrize("background", [False, True])
def test_a_new_prompt_survives_a_batch_and_no_flood(background: bool) -> None:
    harness = Harness(num_blocks=32)
    run(harness, "new", [*CONTEXT, 9])
    for number in range(10):
        run(harness, f"line{number}", one_off(number), background=background)
    assert run(harness, "again", [*CONTEXT, 9]) == (40 if background else 0)


def test_lines_of_a_batch_side_by_side_take_what_is_cold_and_an_eighth() -> None:
    harness = Harness(num_blocks=32, max_num_batched_tokens=200)
    for number in range(3):
        run(harness, f"new{number}", one_off(number))
    for number in range(6):
        harness.add(f"line{number}", one_off(100 + number, 8), background=True, max_tokens=1)
    # Two blocks are empty; two lines of two blocks are an eighth; the next would take more of the cached ones.
    assert harness.step().keys() == {("line0", 0), ("line1", 0)}
    while harness.scheduler.has_work:
        harness.step()
    assert sum(run(harness, f"again{number}", one_off(number)) for number in range(3)) >= 3 * 36 - 2 * 4


def test_a_single_line_larger_than_all_that_is_cold_gets_on() -> None:
    harness = Harness(num_blocks=32)
    hit_twice(harness)
    run(harness, "line", one_off(1, 120), background=True, max_tokens=7)
    assert not harness.preemptions()


def test_growing_lines_of_a_batch_leave_what_is_cached_and_all_end() -> None:
    harness = Harness(num_blocks=32)
    hit_twice(harness)
    run(harness, "new", one_off(0, 60))
    for number in range(4):
        harness.add(f"line{number}", one_off(100 + number, 4), background=True, max_tokens=60)
    ended = set()
    for _ in range(1000):
        harness.step()
        ended |= {delta.request_id for delta in harness.deltas if delta.finish_reason == "length"}
    assert ended == {f"line{number}" for number in range(4)}
    assert run(harness, "again", [*CONTEXT, 9]) == 40


def test_what_a_batch_computed_is_kept_once_a_client_has_used_it() -> None:
    harness = Harness(num_blocks=32)
    run(harness, "line", [*CONTEXT, 1], background=True)
    assert run(harness, "first", [*CONTEXT, 2]) == 40
    for number in range(20):
        run(harness, f"once{number}", one_off(number))
    assert run(harness, "again", [*CONTEXT, 3]) == 40


def test_continuations_of_one_request_are_no_hits() -> None:
    harness = Harness(num_blocks=32)
    run(harness, "four", [*CONTEXT, 1], n=4)
    for number in range(20):
        run(harness, f"once{number}", one_off(number))
    assert run(harness, "again", [*CONTEXT, 1]) == 0


def test_a_conversation_is_kept_as_a_whole() -> None:
    harness = Harness(num_blocks=48)
    history: list[int] = []
    for turn in range(6):
        history += [700 + turn, *range(turn, turn + 11)]
        cached = run(harness, f"turn{turn}", history)
        assert cached == (len(history) - 12 if turn else 0)
        for number in range(3 if turn else 1):
            run(harness, f"once{turn}-{number}", one_off(10 * turn + number))
