"""SlotScheduler alone: who is drained for whom, and who may still pass. Whole traffic is simulated in test_engine."""

from __future__ import annotations

import pytest

from multiflora_adapters.kv_reach import KvReach
from multiflora_engine.core.adapter_source import AdapterState, AdapterUnavailable
from multiflora_engine.core.sequence import Sequence, SequenceStatus, make_sequences
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_engine.scheduling.slot_scheduling import SlotScheduler

PATIENCE = 3


class Slots:
    """Adapters by residency as the test sets it; acquiring works for those in a slot. calls: every acquire."""

    def __init__(self, **states: AdapterState) -> None:
        self.states = states
        self.pinned: set[str] = set()
        self.wanted: list[str] = []
        self.calls: list[str] = []
        self.released: list[str] = []

    def state(self, digest: str) -> AdapterState:
        return self.states[digest]

    def want(self, digest: str) -> None:
        raise AssertionError("prefetching is the scheduler's")

    def acquire(self, digest: str) -> int | None:
        self.calls.append(digest)
        if self.states[digest] == "failed":
            raise AdapterUnavailable("gone")
        return sorted(self.states).index(digest) if self.states[digest] == "slot" else None

    def kv_reach(self, digest: str) -> KvReach:
        return KvReach(digest)

    def release(self, digest: str) -> None:
        self.released.append(digest)

    def is_pinned(self, digest: str) -> bool:
        return digest in self.pinned

    def pending_placements(self) -> list[str]:
        return self.wanted


def make_sequence(serial: int, adapter: str | None, max_tokens: int = 10) -> Sequence:
    request = GenerateRequest(
        id=str(serial),
        prompt_token_ids=[1],
        params=SamplingParams(max_tokens=max_tokens),
        adapter_digest=adapter,
    )
    return make_sequences(request, serial)[0]


def start(scheduler: SlotScheduler, serial: int, adapter: str, max_tokens: int = 10) -> Sequence:
    sequence = make_sequence(serial, adapter, max_tokens)
    assert scheduler.acquire(sequence)
    sequence.status = SequenceStatus.RUNNING
    return sequence


def starve(scheduler: SlotScheduler, running: list[Sequence], *waiting: Sequence, steps: int = PATIENCE + 1) -> None:
    for _ in range(steps):
        scheduler.begin_step(running)
        for sequence in waiting:
            assert not scheduler.acquire(sequence)
    scheduler.begin_step(running)


def test_the_base_model_needs_no_adapter() -> None:
    slots = Slots()
    scheduler = SlotScheduler(slots, PATIENCE, 4)
    sequence = make_sequence(0, None)
    assert scheduler.acquire(sequence)
    scheduler.release(sequence)
    assert slots.calls == slots.released == []


def test_a_slot_is_held_until_release() -> None:
    slots = Slots(a="slot", b="slot")
    scheduler = SlotScheduler(slots, PATIENCE, 4)
    sequence = start(scheduler, 0, "b")
    assert sequence.adapter_slot == 1
    scheduler.release(sequence)
    assert sequence.adapter_slot is None
    assert slots.released == ["b"]


def test_a_refused_adapter_is_asked_for_once_a_step() -> None:
    slots = Slots(cold="cpu")
    scheduler = SlotScheduler(slots, PATIENCE, 4)
    for _ in range(2):
        scheduler.begin_step([])
        assert not scheduler.acquire(make_sequence(0, "cold"))
        assert not scheduler.acquire(make_sequence(1, "cold"))
    assert slots.calls == ["cold", "cold"]


def test_far_behind_in_the_queue_only_resident_adapters_are_asked_for() -> None:
    slots = Slots(x="disk", y="disk", z="disk", hot="slot")
    scheduler = SlotScheduler(slots, PATIENCE, max_refused=2)
    scheduler.begin_step([])
    for serial, digest in enumerate("xyz"):
        assert not scheduler.acquire(make_sequence(serial, digest))
    assert scheduler.acquire(make_sequence(3, "hot"))
    assert slots.calls == ["x", "y", "hot"]


def test_the_adapter_that_ends_soonest_is_drained_for_younger_sequences_only() -> None:
    scheduler = SlotScheduler(Slots(long="slot", short="slot", cold="cpu"), PATIENCE, 4)
    running = [start(scheduler, 0, "long", 50), start(scheduler, 1, "short", 5)]
    cold = make_sequence(5, "cold")
    starve(scheduler, running, cold)
    assert not scheduler.acquire(make_sequence(6, "short"))
    assert scheduler.acquire(make_sequence(4, "short"))
    assert scheduler.acquire(make_sequence(6, "long"))
    assert scheduler.acquire(make_sequence(6, None))


def test_nothing_is_drained_within_patience_nor_for_what_is_still_loading() -> None:
    scheduler = SlotScheduler(Slots(hot="slot", cold="cpu", slow="loading"), PATIENCE, 4)
    running = [start(scheduler, 0, "hot")]
    starve(scheduler, running, make_sequence(1, "cold"), steps=PATIENCE - 1)
    assert scheduler.acquire(make_sequence(9, "hot"))
    scheduler = SlotScheduler(Slots(hot="slot", slow="loading"), PATIENCE, 4)
    starve(scheduler, [start(scheduler, 0, "hot")], make_sequence(1, "slow"), steps=5 * PATIENCE)
    assert scheduler.acquire(make_sequence(9, "hot"))


def test_each_starving_adapter_has_its_own_victim() -> None:
    scheduler = SlotScheduler(Slots(a="slot", b="slot", c="slot", cold="cpu", cool="cpu"), PATIENCE, 4)
    running = [start(scheduler, 0, "a", 1), start(scheduler, 1, "b", 2), start(scheduler, 2, "c", 3)]
    starve(scheduler, running, make_sequence(3, "cold"), make_sequence(4, "cool"))
    allowed = [digest for digest in "abc" if scheduler.acquire(make_sequence(9, digest))]
    assert allowed == ["c"]


def test_the_victim_opens_again_when_the_starving_one_is_served_or_gone() -> None:
    slots = Slots(hot="slot", cold="cpu")
    scheduler = SlotScheduler(slots, PATIENCE, 4)
    running, cold = [start(scheduler, 0, "hot")], make_sequence(1, "cold")
    starve(scheduler, running, cold)
    assert not scheduler.acquire(make_sequence(9, "hot"))
    slots.states["cold"] = "slot"
    assert scheduler.acquire(cold)
    assert scheduler.acquire(make_sequence(9, "hot"))

    scheduler = SlotScheduler(Slots(hot="slot", cold="cpu"), PATIENCE, 4)
    running, cold = [start(scheduler, 0, "hot")], make_sequence(1, "cold")
    starve(scheduler, running, cold)
    cold.status = SequenceStatus.FINISHED
    scheduler.begin_step(running)
    assert scheduler.acquire(make_sequence(9, "hot"))


def test_if_one_drained_adapter_is_not_room_enough_more_follow() -> None:
    scheduler = SlotScheduler(Slots(a="slot", b="slot", c="slot", d="slot", cold="cpu"), PATIENCE, 4)
    running = [start(scheduler, serial, digest, serial + 1) for serial, digest in enumerate("abcd")]
    cold = make_sequence(5, "cold")
    starve(scheduler, running, cold)
    closed = [{"a"}, {"a", "b"}, {"a", "b", "c", "d"}]
    for expected in closed:
        assert {d for d in "abcd" if scheduler._is_closed(d, make_sequence(9, d))} == expected
        for sequence in [s for s in running if s.adapter_digest in expected]:
            scheduler.release(sequence)
            running.remove(sequence)
        scheduler.begin_step(running)
    assert not scheduler._is_closed("a", make_sequence(9, "a")), "all were drained in vain: everybody may go on"


def test_what_administration_wants_is_drained_for_as_well() -> None:
    slots = Slots(hot="slot", other="slot", cold="cpu")
    scheduler = SlotScheduler(slots, PATIENCE, 4)
    running = [start(scheduler, 0, "hot", 5), start(scheduler, 1, "other", 50)]
    slots.wanted = ["cold"]
    starve(scheduler, running)
    assert not scheduler.acquire(make_sequence(2, "hot"))
    assert scheduler.acquire(make_sequence(3, "other"))
    slots.wanted = []
    scheduler.begin_step(running)
    assert scheduler.acquire(make_sequence(2, "hot"))


def test_pinned_adapters_are_no_victims() -> None:
    slots = Slots(pinned="slot", hot="slot", cold="cpu")
    slots.pinned.add("pinned")
    scheduler = SlotScheduler(slots, PATIENCE, 4)
    starve(scheduler, [start(scheduler, 0, "pinned", 1), start(scheduler, 1, "hot", 99)], make_sequence(2, "cold"))
    assert scheduler.acquire(make_sequence(9, "pinned"))
    assert not scheduler.acquire(make_sequence(9, "hot"))


def test_a_failed_adapter_raises_and_holds_nothing() -> None:
    slots = Slots(bad="failed")
    scheduler = SlotScheduler(slots, PATIENCE, 4)
    with pytest.raises(AdapterUnavailable, match="gone"):
        scheduler.acquire(make_sequence(0, "bad"))
    assert slots.released == []
