"""One rule of the scheduler at a time; random lives and identical outputs are in test_engine."""

from __future__ import annotations

from typing import Any

import pytest

from multiflora_adapters.kv_reach import KvReach
from multiflora_engine.core.adapter_source import AdapterState, AdapterUnavailable
from multiflora_engine.core.step import (
    SampledToken,
    Scheduled,
    ScheduledBatch,
    StepOutput,
)
from multiflora_engine.protocol.requests import EngineFailure, GenerateRequest, PositionLogprobs, TokenLogprob
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_engine.scheduling.config import QueueFull, RequestTooLong, SchedulerConfig
from multiflora_engine.scheduling.scheduler import Scheduler

BLOCK = 4
EOS = 0


class Adapters:
    """All adapters are in slots, except those that a test puts elsewhere."""

    def __init__(self) -> None:
        self.missing: set[str] = set()
        self.failing: set[str] = set()
        self.wanted: list[str] = []
        self.users: dict[str, int] = {}

    def state(self, digest: str) -> AdapterState:
        return "loading" if digest in self.missing else "slot"

    def want(self, digest: str) -> None:
        self.wanted.append(digest)

    def acquire(self, digest: str) -> int | None:
        if digest in self.failing:
            raise AdapterUnavailable("file vanished")
        if digest in self.missing:
            return None
        self.users[digest] = self.users.get(digest, 0) + 1
        return 0

    def kv_reach(self, digest: str) -> KvReach:
        return KvReach(digest)

    def release(self, digest: str) -> None:
        self.users[digest] -= 1

    def is_pinned(self, digest: str) -> bool:
        return False

    def pending_placements(self) -> list[str]:
        return []


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def logprob_of(token_id: int) -> PositionLogprobs:
    return PositionLogprobs(TokenLogprob(token_id, -1.0, 1), [])


class Harness:
    """A scheduler whose model always samples `token`; batches are seen as {(request id, index): number of tokens}."""

    def __init__(self, **config: Any) -> None:
        sizes = {"num_blocks": 64, "max_model_len": 200, "max_num_seqs": 8, "max_num_batched_tokens": 64, **config}
        self.adapters = Adapters()
        self.clock = Clock()
        self.scheduler = Scheduler(
            SchedulerConfig(block_size=BLOCK, eos_token_ids=frozenset({EOS}), **sizes),
            self.adapters,
            "base",
            self.clock,
        )
        self.token = 1

    def add(self, id: str, prompt: int | list[int], *, tag: int = 0, **fields: Any) -> None:
        """A request whose prompt has the given length and starts with `tag`, so that equal tags share blocks."""
        envelope = {
            name: fields.pop(name)
            for name in (
                "adapter_digest",
                "background",
                "cache_salt",
                "cache_owner",
                "priority",
                "deadline",
                "documents",
            )
            if name in fields
        }
        ids = [tag, *range(1, prompt)] if isinstance(prompt, int) else prompt
        params = SamplingParams(**{"max_tokens": 10, **fields})
        self.scheduler.add(GenerateRequest(id=id, prompt_token_ids=ids, params=params, **envelope))

    def outputs(self, batch: ScheduledBatch) -> list[StepOutput]:
        return [self.output(entry) for entry in batch.entries]

    def output(self, entry: Scheduled) -> StepOutput:
        sampled = [SampledToken(self.token, logprob_of(self.token))] if entry.samples else []
        stop = min(entry.start + entry.num_tokens + 1, entry.sequence.num_prompt_tokens)
        predicted = entry.sequence.token_ids[entry.start + 1 : stop]
        return StepOutput(sampled, [logprob_of(token_id) for token_id in predicted])

    def step(self) -> dict[tuple[str, int], int]:
        batch = self.scheduler.schedule()
        self.deltas = batch.failures + self.scheduler.commit(batch, self.outputs(batch))
        return sizes_of(batch)

    def preemptions(self) -> int:
        return self.scheduler.stats().preemptions


def sizes_of(batch: ScheduledBatch) -> dict[tuple[str, int], int]:
    return {(entry.sequence.request_id, entry.sequence.index): entry.num_tokens for entry in batch.entries}


# Budget and order


def test_decodes_come_first_and_prefill_takes_what_is_left() -> None:
    harness = Harness(max_num_batched_tokens=10, max_num_seqs=4)
    harness.add("a", 15)
    harness.add("b", 6, tag=50)
    assert harness.step() == {("a", 0): 10}
    assert harness.step() == {("a", 0): 5, ("b", 0): 5}
    assert harness.step() == {("a", 0): 1, ("b", 0): 1}
    assert [len(delta.token_ids) for delta in harness.deltas] == [1, 1]


def test_a_chunk_samples_only_at_its_sequence_end() -> None:
    harness = Harness(max_num_batched_tokens=8)
    harness.add("a", 17)
    batches = []
    for _ in range(3):
        batch = harness.scheduler.schedule()
        batches.append([(entry.start, entry.num_tokens, entry.samples) for entry in batch.entries])
        harness.scheduler.commit(batch, harness.outputs(batch))
    assert batches == [[(0, 8, False)], [(8, 8, False)], [(16, 1, True)]]


def test_priority_then_arrival() -> None:
    harness = Harness(max_num_seqs=1)
    for id, priority in (("late", 1), ("first", 0), ("second", 0), ("urgent", -1)):
        harness.add(id, 3, priority=priority, max_tokens=1)
    assert [next(iter(harness.step()))[0] for _ in range(4)] == ["urgent", "first", "second", "late"]


def test_a_flood_of_one_owner_does_not_delay_another() -> None:
    harness = Harness(max_num_seqs=1)
    for number in range(4):
        harness.add(f"flood {number}", 3, cache_owner="noisy", max_tokens=1)
    assert harness.step() == {("flood 0", 0): 3}
    for number in range(2):
        harness.add(f"quiet {number}", 3, cache_owner="quiet", max_tokens=1)
    started = [next(iter(harness.step()))[0] for _ in range(5)]
    assert started == ["quiet 0", "flood 1", "quiet 1", "flood 2", "flood 3"]


def test_requests_that_their_owner_took_back_do_not_count_against_it() -> None:
    harness = Harness(max_num_seqs=1)
    for number in range(9):
        harness.add(f"taken back {number}", 3, cache_owner="hasty")
        harness.add(f"other {number}", 3, cache_owner="other", max_tokens=1)
    for number in range(9):
        harness.scheduler.abort(f"taken back {number}")
    harness.add("again", 3, cache_owner="hasty", max_tokens=1)
    assert [next(iter(harness.step()))[0] for _ in range(2)] == ["other 0", "again"]


def test_lack_of_blocks_holds_up_everybody_behind() -> None:
    harness = Harness(num_blocks=8)
    harness.add("a", 15)
    harness.add("large", 20, tag=50, max_tokens=4)
    harness.add("small", 2, tag=60)
    assert harness.step() == {("a", 0): 15}
    harness.scheduler.abort("a")
    assert harness.step() == {("large", 0): 20, ("small", 0): 2}


def test_headroom_is_left_for_running_sequences() -> None:
    harness = Harness(num_blocks=20)
    harness.add("a", 38)
    harness.step()
    harness.add("b", 40, tag=50)
    assert harness.scheduler.pool.num_free == 10
    assert harness.step() == {("a", 0): 1}
    harness.scheduler.abort("a")
    assert harness.step() == {("b", 0): 40}


# Limits


def test_a_full_queue_refuses() -> None:
    harness = Harness(max_waiting=2)
    harness.add("a", 3)
    harness.add("b", 3)
    with pytest.raises(QueueFull):
        harness.add("c", 3)
    harness.step()
    harness.add("c", 3)


def test_who_fills_the_queue_is_refused_and_others_still_find_a_place() -> None:
    harness = Harness(max_waiting=4)
    for number in range(4):
        harness.add(f"flood {number}", 3, cache_owner="noisy")
    with pytest.raises(QueueFull):
        harness.add("flood 4", 3, cache_owner="noisy")
    harness.add("quiet 0", 3, cache_owner="quiet")
    harness.add("quiet 1", 3, cache_owner="quiet")
    with pytest.raises(QueueFull):
        harness.add("quiet 2", 3, cache_owner="quiet")


def test_refused_requests_leave_no_trace() -> None:
    harness = Harness(num_blocks=4)
    with pytest.raises(RequestTooLong):
        harness.add("a", 10, max_tokens=50)
    harness.add("a", 3, max_tokens=5)
    with pytest.raises(ValueError, match="exists"):
        harness.add("a", 3, max_tokens=5)
    assert harness.step() == {("a", 0): 3}


# Prefix cache


def test_a_repeated_prompt_computes_its_last_token_only() -> None:
    harness = Harness()
    harness.add("a", 17, max_tokens=1)
    harness.step()
    harness.add("b", 17, max_tokens=1)
    assert harness.step() == {("b", 0): 1}
    assert harness.deltas[0].cached_tokens == 16


def test_a_prompt_of_whole_blocks_recomputes_its_last_block() -> None:
    harness = Harness()
    harness.add("a", 16, max_tokens=1)
    harness.step()
    harness.add("b", 16, max_tokens=1)
    assert harness.step() == {("b", 0): 4}
    assert harness.deltas[0].cached_tokens == 12


def written(harness: Harness) -> dict[str, int]:
    return {delta.request_id: delta.cache_write_tokens for delta in harness.deltas}


def test_what_a_prompt_adds_to_the_cache_is_told_once() -> None:
    harness = Harness(max_num_batched_tokens=9)
    harness.add("a", 19, max_tokens=9)
    for _ in range(3):
        harness.step()
    assert written(harness) == {"a": 16}  # of 19 tokens four blocks of four; its output's blocks are not the prompt's
    harness.step()
    assert written(harness) == {"a": 0}


def test_only_what_was_not_cached_before_is_written() -> None:
    harness = Harness()
    harness.add("a", [1, 2, 3, 4] + [5] * 12, max_tokens=1)
    harness.add("twin", [1, 2, 3, 4] + [5] * 12, max_tokens=1)
    harness.step()
    assert written(harness) == {"a": 16}
    harness.add("b", [1, 2, 3, 4] + [6] * 9, max_tokens=1)
    harness.step()
    assert written(harness) == {"twin": 0, "b": 8}


def test_all_continuations_together_write_a_prompt_once() -> None:
    harness = Harness()
    harness.add("a", 9, n=3, max_tokens=1)
    told = []
    while harness.scheduler.has_work:
        harness.step()
        told += [delta.cache_write_tokens for delta in harness.deltas]
    assert told == [8, 8, 8]


@pytest.mark.parametrize("fields", [{"prompt_logprobs": 0}, {"adapter_digest": "x"}, {"cache_salt": "x"}])
def test_what_is_computed_again_is_written_only_under_another_hash(fields: dict[str, Any]) -> None:
    harness = Harness()
    harness.add("a", 9, max_tokens=1)
    harness.step()
    harness.add("b", 9, max_tokens=1, **fields)
    harness.step()
    assert written(harness) == {"b": 0 if "prompt_logprobs" in fields else 8}


def test_what_was_evicted_and_is_computed_again_is_told() -> None:
    harness = Harness(num_blocks=12)
    deltas = []
    for id, tag in (("a", 0), ("flood", 50), ("another", 51), ("again", 0), ("in cache", 0)):
        harness.add(id, 33 if tag else 17, tag=tag, max_tokens=1)
        harness.step()
        deltas += harness.deltas
    assert [delta.evicted_tokens for delta in deltas[:3]] == [0, 0, 0]
    assert deltas[3].miss_reason == "evicted"
    assert (deltas[3].cached_tokens + deltas[3].evicted_tokens, deltas[3].evicted_tokens > 0) == (16, True)
    assert (deltas[4].cached_tokens, deltas[4].evicted_tokens) == (16, 0)


@pytest.mark.parametrize(("length", "fields", "again"), [(16, {}, 12), (17, {}, 16), (17, {"prompt_logprobs": 0}, 0)])
def test_what_is_computed_in_any_case_is_not_computed_again(length: int, fields: dict[str, Any], again: int) -> None:
    """The block of the last token, and all of a prompt of whose every position something is wanted."""
    harness = Harness(num_blocks=12)
    harness.add("a", length, max_tokens=1)
    harness.step()
    harness.add("flood", 47, tag=50, max_tokens=1)
    harness.step()
    harness.add("again", length, max_tokens=1, **fields)
    harness.step()
    (delta,) = harness.deltas
    assert (delta.cached_tokens, delta.evicted_tokens, delta.miss_reason) == (0, again, "evicted")


def test_generated_tokens_are_cached_for_the_next_turn() -> None:
    harness = Harness()
    harness.add("a", [9, 8, 7, 6, 5], max_tokens=8)
    for _ in range(8):
        harness.step()
    harness.add("b", [9, 8, 7, 6, 5] + [1] * 8 + [3, 3], max_tokens=1)
    # The KV of 12 tokens was computed; the eighth output token's never.
    assert harness.step() == {("b", 0): 3}


def test_hits_between_requests_that_run_at_the_same_time() -> None:
    harness = Harness()
    harness.add("a", 17)
    harness.step()
    harness.add("b", 17)
    assert harness.step() == {("a", 0): 1, ("b", 0): 1}
    assert harness.scheduler.stats().cache_hits == 16


def test_twins_of_a_cold_prefix_wait_for_the_one_that_computes_it() -> None:
    harness = Harness(max_num_batched_tokens=16)
    harness.add("a", 33)
    harness.add("b", 33)
    harness.add("n", 33, n=2)
    assert harness.step() == {("a", 0): 16}
    assert harness.step() == {("a", 0): 16}
    # The shared blocks are there now: each computes its last token.
    assert harness.step() == {("a", 0): 1, ("b", 0): 1, ("n", 0): 1, ("n", 1): 1}


def test_twins_do_not_hold_up_others() -> None:
    harness = Harness(max_num_batched_tokens=24)
    harness.add("a", 20)
    harness.add("second", 20)
    harness.add("other", 3, tag=50)
    assert harness.step() == {("a", 0): 20, ("other", 0): 3}


def test_a_twin_waits_only_for_shared_blocks() -> None:
    harness = Harness(max_num_batched_tokens=24)
    harness.add("a", [1, 2, 3, 4] + [5] * 12)
    harness.add("b", [1, 2, 3, 4] + [6] * 5)
    assert harness.step() == {("a", 0): 16}
    assert harness.step() == {("a", 0): 1, ("b", 0): 5}
    assert harness.deltas[1].cached_tokens == 4


def test_when_the_computing_one_aborts_a_twin_takes_over_and_others_wait_for_it() -> None:
    harness = Harness(max_num_batched_tokens=8)
    for id in "abc":
        harness.add(id, 17)
    assert harness.step() == {("a", 0): 8}
    harness.scheduler.abort("a")
    assert harness.step() == {("b", 0): 8}
    assert harness.step() == {("b", 0): 1, ("c", 0): 1}


@pytest.mark.parametrize("aborts", [0, 3])
def test_sixteen_equal_prompts_compute_what_they_share_once(aborts: int) -> None:
    """Whoever of them computes it may go: the next one goes on from the blocks that are published."""
    harness = Harness(num_blocks=1200, max_model_len=1100, max_num_seqs=16, max_num_batched_tokens=64)
    for number in range(16):
        harness.add(str(number), [*range(1024), number], max_tokens=1)
    prompts, left, steps = 0, aborts, 0
    while harness.scheduler.has_work:
        sizes = harness.step()
        prompts, steps = prompts + sum(sizes.values()), steps + 1
        if left and steps % 4 == 0:
            leader = next(id for id, _ in sizes)
            harness.scheduler.abort(leader)
            left -= 1
    # Nothing that was computed before an abort is computed again, and no step is lost by waiting.
    assert prompts == 1024 + 16 - aborts
    assert steps == 1024 // 64 + 1


def test_an_abort_between_schedule_and_commit_publishes_nothing() -> None:
    harness = Harness()
    harness.add("a", 17)
    batch = harness.scheduler.schedule()
    harness.scheduler.abort("a")
    assert harness.scheduler.commit(batch, harness.outputs(batch)) == []
    harness.add("b", 17)
    assert harness.step() == {("b", 0): 17}


def test_a_twin_loses_patience_with_a_step_that_does_not_end() -> None:
    harness = Harness(prefix_wait_steps=3)
    harness.add("a", 17)
    harness.add("b", 17)
    stuck = harness.scheduler.schedule()
    assert sizes_of(stuck) == {("a", 0): 17}
    assert [sizes_of(harness.scheduler.schedule()) for _ in range(3)] == [{}, {}, {("b", 0): 17}]


def test_salts_and_adapters_do_not_wait_for_each_other() -> None:
    harness = Harness(max_num_batched_tokens=100)
    harness.add("a", 17)
    harness.add("b", 17, cache_salt="x")
    harness.add("c", 17, adapter_digest="x")
    assert harness.step() == {("a", 0): 17, ("b", 0): 17, ("c", 0): 17}


def test_without_prefix_caching_everybody_computes() -> None:
    harness = Harness(enable_prefix_caching=False)
    harness.add("a", 9)
    harness.add("b", 9)
    assert harness.step() == {("a", 0): 9, ("b", 0): 9}
    harness.add("c", 9, tag=0)
    assert harness.step()["c", 0] == 9
    assert written(harness)["c"] == 0
    stats = harness.scheduler.stats()
    assert (stats.cached_blocks, stats.cache_hits) == (0, 0)


@pytest.mark.parametrize("salts", [1, 30])
def test_one_tenants_flood_leaves_another_tenants_context_cached(salts: int) -> None:
    """Also when the loud tenant names a salt of its own in each request."""
    harness = Harness(num_blocks=20)
    harness.add("a", 21, max_tokens=1, cache_salt="quiet")
    harness.step()
    for number in range(30):
        salt = f"loud, part {number % salts}"
        harness.add(f"flood{number}", 9, tag=100 + number, max_tokens=1, cache_salt=salt, cache_owner="loud")
        harness.step()
    assert harness.scheduler.stats().evictions > 20
    harness.add("b", 21, max_tokens=1, cache_salt="quiet")
    assert harness.step() == {("b", 0): 1}


# Preemption


def test_the_last_in_order_is_preempted_and_nobody_starts_in_that_step() -> None:
    harness = Harness(num_blocks=4)
    harness.add("urgent", 4, priority=-1, max_tokens=12)
    harness.add("a", 4, tag=50, max_tokens=12)
    for _ in range(5):
        assert harness.step().keys() == {("urgent", 0), ("a", 0)}
    harness.add("new", 1, tag=60, priority=-2)
    assert harness.step() == {("urgent", 0): 1}
    assert harness.preemptions() == 1
    assert harness.step() == {("urgent", 0): 1, ("new", 0): 1}


def test_a_sequence_that_is_last_preempts_itself() -> None:
    harness = Harness(num_blocks=4)
    harness.add("a", 5, max_tokens=9)
    harness.add("b", 8, tag=50, max_tokens=9)
    harness.step()
    assert harness.step() == {("a", 0): 1}
    assert harness.preemptions() == 1


def test_a_prefill_that_loses_its_blocks_is_left_out_and_starts_over() -> None:
    harness = Harness(num_blocks=9, max_num_batched_tokens=8, max_num_seqs=8)
    harness.add("a", 11, max_tokens=6)
    harness.add("b", 21, tag=50, max_tokens=1, prompt_logprobs=0)
    assert [harness.step() for _ in range(4)] == [
        {("a", 0): 8},
        {("a", 0): 3, ("b", 0): 5},
        {("a", 0): 1, ("b", 0): 7},
        {("a", 0): 1},
    ]
    assert harness.preemptions() == 1
    while harness.scheduler.has_work:
        harness.step()
    (delta,) = harness.deltas
    assert delta.request_id == "b"
    assert delta.prompt_logprobs == [None, *map(logprob_of, range(1, 21))]
    assert delta.cache_write_tokens == 20


def test_a_preempted_sequence_finds_its_own_blocks_again_and_is_counted_once() -> None:
    harness = Harness(num_blocks=5)
    harness.add("a", 5, max_tokens=5)
    harness.add("b", 9, tag=50, max_tokens=9)
    for _ in range(4):
        harness.step()
    assert harness.step() == {("a", 0): 1}
    # "b" returns with 12 known tokens, of which it finds two blocks; the third was taken for "a" or is its last.
    assert harness.step() == {("b", 0): 5}
    stats = harness.scheduler.stats()
    assert (stats.cache_queries, stats.cache_hits) == (14, 0)


# Commit


def test_the_first_delta_carries_cached_tokens_and_prompt_logprobs() -> None:
    harness = Harness(max_num_batched_tokens=8)
    harness.add("a", 10, prompt_logprobs=0, logprobs=0, max_tokens=2)
    harness.step()
    assert harness.deltas == []
    harness.step()
    (first,) = harness.deltas
    assert first.prompt_logprobs == [None, *map(logprob_of, range(1, 10))]
    assert first.logprobs == [logprob_of(1)]
    harness.step()
    (second,) = harness.deltas
    assert second.prompt_logprobs is None
    assert second.finish_reason == "length"


def test_max_tokens_0_answers_with_the_prompt_alone() -> None:
    harness = Harness()
    harness.add("a", 5, max_tokens=0, prompt_logprobs=0, logprobs=0)
    harness.step()
    (delta,) = harness.deltas
    assert (delta.token_ids, delta.logprobs, delta.finish_reason) == ([], None, "length")
    assert delta.prompt_logprobs is not None
    assert harness.scheduler.stats().generation_tokens == 0


def test_eos_ends_and_frees() -> None:
    harness = Harness()
    harness.add("a", 5)
    harness.token = EOS
    harness.step()
    assert harness.deltas[0].finish_reason == "stop"
    assert not harness.scheduler.has_work
    assert harness.scheduler.pool.num_free == 64


def test_a_batch_in_flight_is_left_out_of_the_next_one() -> None:
    harness = Harness()
    harness.add("a", 5, max_tokens=3)
    first = harness.scheduler.schedule()
    harness.add("b", 5, tag=50, max_tokens=3)
    second = harness.scheduler.schedule()
    assert sizes_of(second) == {("b", 0): 5}
    harness.scheduler.commit(first, harness.outputs(first))
    assert harness.step() == {("a", 0): 1}
    harness.scheduler.commit(second, harness.outputs(second))
    assert harness.step() == {("a", 0): 1, ("b", 0): 1}


def test_results_of_before_a_preemption_are_dropped() -> None:
    harness = Harness(num_blocks=5)
    harness.add("a", 8, max_tokens=12)
    harness.add("b", 8, tag=50, max_tokens=12)
    harness.step()
    stale = harness.scheduler.schedule()
    assert sizes_of(stale) == {("a", 0): 1}
    assert harness.preemptions() == 1
    harness.scheduler.commit(stale, harness.outputs(stale))


# Ends


def test_a_deadline_ends_waiting_and_running_sequences() -> None:
    harness = Harness(max_num_seqs=1)
    harness.add("a", 5, n=2, deadline=105.0)
    harness.add("b", 5, tag=50, deadline=200.0)
    harness.step()
    harness.clock.now = 105.0
    assert harness.step() == {("b", 0): 5}
    failed = [delta for delta in harness.deltas if delta.failure]
    assert [(delta.request_id, delta.index, delta.finish_reason) for delta in failed] == [
        ("a", 0, "error"),
        ("a", 1, "error"),
    ]
    assert {delta.failure.code for delta in failed if delta.failure} == {"deadline_exceeded"}


def test_a_deadline_of_an_earlier_request_of_the_same_id_is_void() -> None:
    harness = Harness()
    harness.add("a", 5, max_tokens=1, deadline=105.0)
    harness.step()
    harness.add("a", 5, max_tokens=9, deadline=None)
    harness.clock.now = 106.0
    harness.step()
    assert harness.deltas[0].finish_reason is None


def test_an_abort_frees_at_once_and_says_nothing() -> None:
    harness = Harness()
    harness.add("a", 20, n=3, adapter_digest="x")
    harness.step()
    harness.scheduler.abort("a")
    assert harness.scheduler.pool.num_free == 64
    assert harness.adapters.users == {"x": 0}
    assert not harness.scheduler.has_work
    harness.scheduler.abort("a")
    assert harness.step() == {}
    assert harness.deltas == []


def test_what_has_not_begun_is_given_back_and_what_has_goes_on() -> None:
    harness = Harness(max_num_seqs=2)
    harness.add("a", 20, n=2, adapter_digest="x")
    harness.add("b", 20, n=2, tag=1)
    harness.add("c", 20, n=2, tag=2)
    harness.step()
    given_back = [harness.scheduler.give_back(id) for id in ("a", "b", "c", "c", "unknown")]
    assert given_back == [False, False, True, False, False]
    harness.step()
    assert {delta.request_id for delta in harness.deltas} == {"a", "b"}
    harness.scheduler.abort("a")
    harness.scheduler.abort("b")
    assert not harness.scheduler.has_work
    assert (harness.scheduler.pool.num_free, harness.scheduler.stats().waiting) == (64, 0)


def test_what_was_preempted_is_not_given_back() -> None:
    harness = Harness(num_blocks=4, max_num_batched_tokens=200)
    harness.add("a", 2 * BLOCK - 1)
    harness.add("b", 2 * BLOCK - 1, tag=1)
    while not harness.preemptions():
        harness.step()
    assert harness.scheduler.stats().waiting == 1
    assert not harness.scheduler.give_back("b")


def test_a_failed_batch_ends_its_requests_whole() -> None:
    harness = Harness(max_num_seqs=1)
    harness.add("a", 5, n=2)
    harness.add("b", 5, tag=50)
    batch = harness.scheduler.schedule()
    deltas = harness.scheduler.fail(batch, EngineFailure("internal_error", "boom"))
    assert [(delta.request_id, delta.index) for delta in deltas] == [("a", 0), ("a", 1)]
    assert harness.step() == {("b", 0): 5}


def test_a_token_that_could_not_be_chosen_ends_the_request_and_publishes_nothing() -> None:
    harness = Harness()
    harness.add("a", 9, n=2)
    batch = harness.scheduler.schedule()
    failure = EngineFailure("internal_error", "not a number")
    deltas = harness.scheduler.commit(batch, [StepOutput([SampledToken(0, failure=failure)])])
    assert [(delta.index, delta.token_ids, delta.failure) for delta in deltas] == [(0, [], failure), (1, [], failure)]
    assert harness.scheduler.pool.num_published == 0
    assert not harness.scheduler.has_work


# Adapters


def test_waiting_for_an_adapter_does_not_hold_up_others() -> None:
    harness = Harness()
    harness.adapters.missing.add("cold")
    harness.add("a", 3, adapter_digest="cold")
    harness.add("b", 3, adapter_digest="hot")
    harness.add("c", 3)
    assert harness.step() == {("b", 0): 3, ("c", 0): 3}
    harness.adapters.missing.clear()
    assert harness.step() == {("b", 0): 1, ("c", 0): 1, ("a", 0): 3}


def test_adapters_of_the_first_waiting_are_wanted_even_when_nothing_can_start() -> None:
    harness = Harness(max_num_seqs=1, num_prefetched=2)
    harness.add("running", 3)
    harness.step()
    for adapter in "xyz":
        harness.add(adapter, 3, adapter_digest=adapter)
    harness.step()
    assert harness.adapters.wanted == ["x", "y"]


def test_who_lacks_blocks_or_waits_for_a_twin_holds_no_adapter() -> None:
    harness = Harness(num_blocks=8)
    harness.add("a", 20, adapter_digest="x")
    harness.add("second", 20, adapter_digest="x")
    harness.add("large", 20, adapter_digest="y")
    assert harness.step() == {("a", 0): 20}
    assert harness.adapters.users == {"x": 1, "y": 0}


def test_a_failed_adapter_takes_running_siblings_out_of_the_batch() -> None:
    harness = Harness(max_num_seqs=2, max_num_batched_tokens=8)
    harness.add("other", 3, tag=50, max_tokens=2)
    harness.add("a", 3, adapter_digest="x", n=2)
    assert harness.step() == {("other", 0): 3, ("a", 0): 3}
    harness.step()
    harness.adapters.failing.add("x")
    harness.add("b", 3, tag=60, priority=1)
    assert harness.step() == {("b", 0): 3}
    failed = [delta for delta in harness.deltas if delta.failure]
    assert [(delta.request_id, delta.index) for delta in failed] == [("a", 0), ("a", 1)]
    assert failed[0].failure == EngineFailure("adapter_unavailable", "file vanished")
    assert harness.adapters.users == {"x": 0}


def test_several_tokens_of_one_step_are_taken_in_until_the_sequence_ends() -> None:
    harness = Harness()
    harness.add("a", 3)
    harness.step()
    batch = harness.scheduler.schedule()
    several = [SampledToken(7), SampledToken(EOS), SampledToken(8)]
    deltas = harness.scheduler.commit(batch, [StepOutput(several)])
    assert [(delta.token_ids, delta.finish_reason) for delta in deltas] == [([7], None), ([EOS], "stop")]
    assert not harness.scheduler.has_work


@pytest.mark.parametrize("tokens", [2, 3, 5, 9])
def test_several_tokens_a_step_have_blocks_to_go_to(tokens: int) -> None:
    harness = Harness()
    harness.add("a", 3, max_tokens=40)
    harness.step()
    while harness.scheduler.has_work:
        batch = harness.scheduler.schedule()
        (entry,) = batch.entries
        assert entry.start + entry.num_tokens <= len(entry.sequence.block_table) * BLOCK
        harness.scheduler.commit(batch, [StepOutput([SampledToken(7)] * tokens)])
    assert harness.scheduler.pool.num_free == 64


def flooded(*, is_compute_bound: bool = False, seats: int = 4, **fields: Any) -> Harness:
    """All seats are taken by one owner's adapter, of which more waits."""
    harness = Harness(max_num_seqs=seats, is_compute_bound=is_compute_bound)
    for number in range(seats + 2):
        fields = {"adapter_digest": "x", "cache_owner": "team", "max_tokens": 20, **fields}
        harness.add(f"flood{number}", 3, tag=100 + number, **fields)
    harness.step()
    return harness


def test_an_adapter_of_which_nothing_runs_gets_a_seat_of_a_flood() -> None:
    harness = flooded()
    harness.add("quiet", 3, adapter_digest="y", cache_owner="team", max_tokens=3)
    assert ("quiet", 0) in harness.step()
    assert (harness.preemptions(), harness.scheduler.stats().running) == (1, 4)
    harness.add("second", 3, adapter_digest="y", cache_owner="team", max_tokens=3)
    assert ("second", 0) not in harness.step()
    while harness.scheduler.has_work:
        harness.step()
    # Two of the flood had left, once each, and lost no token by it.
    assert (harness.preemptions(), harness.scheduler.stats().generation_tokens) == (2, 6 * 20 + 2 * 3)
    assert harness.scheduler.pool.num_free == 64


@pytest.mark.parametrize(
    ("flood", "quiet"),
    [
        ({}, {"adapter_digest": "x", "cache_owner": "team"}),
        ({"priority": -1}, {"adapter_digest": "y", "cache_owner": "team"}),
        ({"max_tokens": 1}, {"adapter_digest": "missing", "cache_owner": "team"}),
    ],
)
def test_a_seat_is_not_left_for_the_same_adapter_the_less_urgent_or_one_that_is_not_there(
    flood: dict[str, Any], quiet: dict[str, Any]
) -> None:
    harness = flooded(**flood)
    harness.adapters.missing.add("missing")
    harness.add("quiet", 3, **quiet)
    harness.step()
    assert harness.preemptions() == 0


@pytest.mark.parametrize(
    ("flood", "quiet", "counts"),
    [
        ({}, {}, [1, 1, 10] * 2),
        ({"priority": -1}, {"priority": -1}, [1, 1, 10] * 2),
        # Where a step of few takes as long as one of all, the flood would lose half of its pace.
        ({"is_compute_bound": False}, {}, [10] * 6),
        ({"seats": 3}, {}, [3] * 6),  # no flood
    ],
)
def test_two_of_three_steps_are_for_those_beside_a_flood(
    flood: dict[str, Any], quiet: dict[str, Any], counts: list[int]
) -> None:
    harness = flooded(**{"is_compute_bound": True, "seats": 10, **flood})
    harness.add("quiet", 3, adapter_digest="y", cache_owner="team", **quiet)
    harness.step()
    batches = [harness.step() for _ in range(6)]
    assert sorted(len(batch) for batch in batches) == sorted(counts)
    assert all(("quiet", 0) in batch for batch in batches)


def test_what_is_less_urgent_than_a_flood_gets_no_steps_of_its_own() -> None:
    harness = Harness(max_num_seqs=10, is_compute_bound=True)
    harness.add("later", 3, adapter_digest="y", cache_owner="team", priority=1)
    harness.step()
    for number in range(12):
        harness.add(f"flood{number}", 3, tag=100 + number, adapter_digest="x", cache_owner="team")
    harness.step()
    assert [len(harness.step()) for _ in range(4)] == [10] * 4


def test_flows_with_one_seat_each_keep_it() -> None:
    harness = Harness(max_num_seqs=3)
    for number in range(5):
        harness.add(f"a{number}", 3, tag=100 + number, adapter_digest=f"a{number}", cache_owner="team")
    for _ in range(5):
        harness.step()
    assert harness.preemptions() == 0


def test_who_had_to_leave_often_leaves_last() -> None:
    harness = flooded()
    for number in range(3):
        harness.add(f"quiet{number}", 3, tag=50 + number, adapter_digest=f"y{number}", cache_owner="team", max_tokens=1)
        harness.step()
        harness.step()
    epochs = [sequence.epoch for request in harness.scheduler._live.requests.values() for sequence in request]
    assert max(epochs) == 1
    assert harness.preemptions() == 3


def test_a_quiet_adapter_finishes_within_a_quarter_of_its_owners_flood() -> None:
    harness = Harness(max_num_seqs=4)
    for number in range(200):
        harness.add(f"flood{number}", 3, adapter_digest="x", cache_owner="team", max_tokens=4)
    for _ in range(3):
        harness.step()
    harness.add("quiet", 3, adapter_digest="y", cache_owner="team", max_tokens=4)
    steps = ended = 0
    while harness.scheduler.has_work:
        harness.step()
        steps += 1
        ended = ended or steps * any(d.request_id == "quiet" and d.finish_reason is not None for d in harness.deltas)
    assert ended <= steps / 20
