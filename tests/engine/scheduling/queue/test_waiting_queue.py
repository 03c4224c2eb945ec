"""Who is served next: priorities, owners and adapters in turn, places kept by the preempted, capacity, deadlines."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from multiflora_engine.core.sequence import Sequence, make_sequences
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_engine.scheduling.config import QueueFull
from multiflora_engine.scheduling.queue.waiting_queue import WaitingQueue


@dataclass
class Line:
    queue: WaitingQueue = field(default_factory=lambda: WaitingQueue(1000))
    names: list[str] = field(default_factory=list)

    def add(
        self, owner: str, adapter: str | None = None, count: int = 1, priority: int = 0, deadline: float | None = None
    ) -> list[Sequence]:
        added: list[Sequence] = []
        for _ in range(count):
            request = GenerateRequest(
                id=f"{owner}{adapter or ''}{self.queue.next_serial}",
                prompt_token_ids=[1],
                params=SamplingParams(max_tokens=1),
                adapter_digest=adapter,
                cache_owner=owner,
                priority=priority,
                deadline=deadline,
            )
            self.names.append(request.id)
            sequences = make_sequences(request, self.queue.next_serial)
            self.queue.add(sequences, self.names)
            added += sequences
        return added

    def start(self, count: int = 1) -> list[Sequence]:
        started = []
        for sequence in self.queue:
            if len(started) == count:
                break
            self.queue.start(sequence)
            started.append(sequence)
        return started

    def order(self) -> list[tuple[str, str | None]]:
        return [(sequence.cache_owner, sequence.adapter_digest) for sequence in self.queue]


def test_owners_take_turns_and_within_an_owner_its_adapters_do() -> None:
    line = Line()
    line.add("x", "a", 3)
    line.add("x", "b")
    line.add("y", None, 2)
    assert line.order() == [("x", "a"), ("y", None), ("x", "b"), ("y", None), ("x", "a"), ("x", "a")]


def test_more_adapters_are_no_more_turns_for_their_owner() -> None:
    line = Line()
    for adapter in "abcd":
        line.add("x", adapter, 5)
    line.add("y", "e", 5)
    assert [owner for owner, _ in line.order()][:10] == ["x", "y"] * 5


def test_a_quiet_adapters_request_passes_a_flood_that_has_begun() -> None:
    line = Line()
    line.add("x", "a", 200)
    line.start(20)
    line.add("x", "b")
    assert line.order()[:2] == [("x", "b"), ("x", "a")]


def test_priority_decides_before_turns_and_the_base_is_a_flow_of_its_own() -> None:
    line = Line()
    line.add("x", None, 2)
    line.add("x", "a", 1)
    line.add("y", "a", 1, priority=-1)
    assert line.order() == [("y", "a"), ("x", None), ("x", "a"), ("x", None)]


def test_the_preempted_keep_their_places() -> None:
    line = Line()
    line.add("x", "a", 4)
    first, second = line.start(2)
    for sequence in (second, first):
        sequence.epoch += 1
        line.queue.put_back(sequence)
    line.add("y", "b")
    assert list(line.queue)[:2] == [first, second]
    line.queue.start(first)
    line.queue.remove(second)
    assert len(line.queue) == 3
    assert line.order() == [("y", "b"), ("x", "a"), ("x", "a")]


def test_sequences_may_start_and_end_while_the_queue_is_walked() -> None:
    line = Line()
    sequences = line.add("x", "a", 4) + line.add("y", "b", 3)
    seen = []
    for sequence in line.queue:
        seen.append(sequence)
        line.queue.start(sequence)
    assert sorted(seen, key=lambda sequence: sequence.serial) == sequences
    assert not len(line.queue)
    assert not line.queue._new


def test_a_full_queue_refuses_its_fillers_alone() -> None:
    line = Line(WaitingQueue(10))
    line.add("x", "a", 9)
    line.queue.check_capacity("x")
    line.add("x", "b")
    with pytest.raises(QueueFull, match="10 sequences are waiting"):
        line.queue.check_capacity("x")
    line.queue.check_capacity("y")


def test_deadlines_pass_once_and_in_order() -> None:
    line = Line()
    late, early = line.add("x", deadline=20.0) + line.add("x", deadline=10.0)
    line.add("x")
    assert line.queue.deadlines.earliest == 10.0
    assert [id for _, id in line.queue.deadlines.passed(15.0)] == [early.request_id]
    assert [id for _, id in line.queue.deadlines.passed(30.0)] == [late.request_id]
    assert line.queue.deadlines.earliest == float("inf")


class Lives(RuleBasedStateMachine):
    """Any order of arrivals, starts, preemptions and ends: the queue holds what waits, each sequence once, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.line = Line()
        self.waiting: set[Sequence] = set()
        self.running: list[Sequence] = []

    @rule(owner=st.sampled_from("xyz"), adapter=st.sampled_from([None, "a", "b"]), priority=st.integers(-1, 1))
    def arrive(self, owner: str, adapter: str | None, priority: int) -> None:
        self.waiting.update(self.line.add(owner, adapter, 2, priority))

    @precondition(lambda self: self.waiting)
    @rule(skip=st.integers(0, 3), count=st.integers(1, 3))
    def start(self, skip: int, count: int) -> None:
        for place, sequence in enumerate(self.line.queue):
            if place >= skip and count:
                count -= 1
                self.line.queue.start(sequence)
                self.waiting.remove(sequence)
                self.running.append(sequence)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def preempt(self, data: st.DataObject) -> None:
        sequence = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        sequence.epoch += 1
        self.line.queue.put_back(sequence)
        self.waiting.add(sequence)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.waiting, key=lambda sequence: sequence.serial)))
        self.line.queue.remove(sequence)
        self.waiting.remove(sequence)

    @invariant()
    def holds_what_waits_in_order(self) -> None:
        queued = list(self.line.queue)
        assert len(queued) == len(self.line.queue) == len(self.waiting)
        assert set(queued) == self.waiting
        assert queued == sorted(queued, key=lambda sequence: sequence.order)
        for priority in {sequence.priority for sequence in queued}:
            new = [s for s in queued if s.priority == priority and not s.epoch]
            for owner, adapter in {(s.cache_owner, s.adapter_digest) for s in new}:
                flow = [s.serial for s in new if (s.cache_owner, s.adapter_digest) == (owner, adapter)]
                assert flow == sorted(flow), "first come, first served within one adapter of one owner"


TestLives = Lives.TestCase
