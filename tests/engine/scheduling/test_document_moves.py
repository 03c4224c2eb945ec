"""Documents that are taken from elsewhere: which chunks are computed, and that no block is held for longer than it is
read."""

from __future__ import annotations

from typing import Any

import pytest
from tests.engine.scheduling.test_scheduler import Harness

from multiflora_engine.core.step import ScheduledBatch
from multiflora_engine.protocol.requests import DocumentSpan, EngineFailure
from multiflora_engine.scheduling.config import SchedulerConfig

BEGINNING, FIRST, SECOND = [7, 8], [*range(20, 30)], [*range(30, 45)]
PROMPT = [*BEGINNING, *FIRST, *SECOND, 9, 9, 9]
DOCUMENTS = [DocumentSpan(2, 12, 1), DocumentSpan(12, 27, 1)]
"""Of the second one 14 tokens are in whole blocks behind the beginning; the first of them is computed."""


@pytest.fixture
def harness() -> Harness:
    """The second document is cached as it stands behind the beginning."""
    made = Harness()
    made.add("alone", [*BEGINNING, *SECOND], max_tokens=1)
    made.step()
    return made


def chunks(batch: ScheduledBatch) -> list[tuple[int, int, tuple[int, int] | None]]:
    """(start, tokens, what was moved before them) of each entry."""
    return [(e.start, e.num_tokens, e.move and (e.move.start, e.move.stop)) for e in batch.entries]


def step(harness: Harness) -> Any:
    batch = harness.scheduler.schedule()
    harness.deltas = harness.scheduler.commit(batch, harness.outputs(batch))
    return chunks(batch)


def test_a_chunk_ends_where_a_document_begins_and_the_next_one_begins_behind_it(harness: Harness) -> None:
    harness.add("a", PROMPT, documents=DOCUMENTS)
    assert step(harness) == [(0, 13, None)]
    assert step(harness) == [(26, 4, (13, 26))]
    assert (harness.deltas[0].cached_tokens, harness.scheduler.stats().cache_hits) == (13, 13)
    assert step(harness) == [(30, 1, None)]


def test_what_is_moved_costs_nothing_of_the_budget() -> None:
    harness = Harness(max_num_batched_tokens=16)
    harness.add("alone", [*BEGINNING, *SECOND], max_tokens=1)
    harness.step()
    harness.step()
    harness.add("a", PROMPT, documents=DOCUMENTS)
    harness.add("b", 16, tag=99)
    assert step(harness) == [(0, 13, None), (0, 3, None)]
    assert step(harness) == [(26, 4, (13, 26)), (3, 12, None)]


def test_the_same_documents_find_what_was_stitched(harness: Harness) -> None:
    harness.add("a", PROMPT, documents=DOCUMENTS, max_tokens=1)
    step(harness)
    step(harness)
    other = [*PROMPT[:-1], 5]
    harness.add("b", other, documents=DOCUMENTS)
    assert step(harness) == [(28, 2, None)]


@pytest.mark.parametrize("fields", [{"cache_salt": "x"}, {"adapter_digest": "x"}])
def test_others_documents_are_not_taken(harness: Harness, fields: dict[str, Any]) -> None:
    harness.add("a", PROMPT, documents=DOCUMENTS, **fields)
    assert step(harness) == [(0, 13, None)]
    assert step(harness) == [(13, 17, None)]


@pytest.mark.parametrize("num_behind", [0, 1])
def test_a_prompts_last_token_is_computed(harness: Harness, num_behind: int) -> None:
    """The document ends with a whole block, and the prompt with it or a token later."""
    harness.add(
        "a", [*BEGINNING, *FIRST, *SECOND[:14], *[9] * num_behind], documents=[*DOCUMENTS[:1], DocumentSpan(12, 26, 1)]
    )
    assert step(harness) == ([(0, 13, None)] if num_behind else [(0, 26, None)])


def test_what_reads_the_whole_prompt_is_computed_whole_and_found_by_exact_requests(harness: Harness) -> None:
    harness.add("a", PROMPT, documents=DOCUMENTS, max_tokens=1, prompt_logprobs=1)
    assert step(harness) == [(0, 30, None)]
    harness.add("b", PROMPT)
    assert step(harness) == [(28, 2, None)]


@pytest.mark.parametrize("how", ["abort", "fail", "withdraw", "preempt"])
def test_blocks_that_are_read_are_given_back(harness: Harness, how: str) -> None:
    scheduler = harness.scheduler
    harness.add("a", PROMPT, documents=DOCUMENTS)
    step(harness)
    batch = scheduler.schedule()
    (entry,) = batch.entries
    assert entry.move is not None
    assert all(scheduler.pool.reference_counts[block] for block in entry.move.blocks)
    if how == "abort":
        scheduler.abort("a")
    elif how == "fail":
        scheduler.fail(batch, EngineFailure("internal_error", "x"))
    elif how == "withdraw":
        scheduler.withdraw(batch)
        assert step(harness) == [(26, 4, (13, 26))], "it is scheduled once more, move and all"
        assert harness.deltas[0].cached_tokens == 13
    else:
        scheduler._live.preempt(entry.sequence)
        scheduler.commit(batch, harness.outputs(batch))
    scheduler.abort("a")
    assert scheduler.pool.num_free == scheduler.pool.num_blocks


@pytest.mark.parametrize("fails", [False, True])
def test_it_is_taken_while_the_chunk_before_is_computed(harness: Harness, fails: bool) -> None:
    scheduler = harness.scheduler
    scheduler.runs_ahead = True
    harness.add("a", PROMPT, documents=DOCUMENTS, max_tokens=1)
    first, second = scheduler.schedule(), scheduler.schedule()
    assert chunks(second) == [(26, 4, (13, 26))]
    if fails:
        # The first is executed again, with nothing else in flight.
        scheduler.withdraw(second)
        scheduler.commit(first, harness.outputs(first))
        second = scheduler.schedule()
        assert chunks(second) == [(26, 4, (13, 26))]
    else:
        scheduler.commit(first, harness.outputs(first))
    (delta,) = scheduler.commit(second, harness.outputs(second))
    assert (delta.finish_reason, delta.cached_tokens) == ("length", 13)
    assert scheduler.pool.num_free == scheduler.pool.num_blocks


BAD = [
    [DocumentSpan(0, 31, 0)],
    [DocumentSpan(3, 3, 0)],
    [DocumentSpan(5, 9, 0), DocumentSpan(8, 12, 0)],
    [DocumentSpan(-1, 4, 0)],
    [DocumentSpan(1, 4, -1)],
]


@pytest.mark.parametrize("documents", BAD, ids=str)
def test_spans_that_are_none_are_refused(harness: Harness, documents: list[DocumentSpan]) -> None:
    with pytest.raises(ValueError, match="spans of the prompt"):
        harness.add("a", PROMPT, documents=documents)


def test_models_whose_keys_stay_refuse_documents() -> None:
    harness = Harness(why_keys_stay="its positions are learned vectors")
    assert isinstance(harness.scheduler.config, SchedulerConfig)
    with pytest.raises(ValueError, match="learned vectors"):
        harness.add("a", PROMPT, documents=DOCUMENTS)
