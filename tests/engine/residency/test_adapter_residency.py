"""Residency: what is asked for comes to a slot, what is used stays there, and nobody waits for a disk or for ever."""

from __future__ import annotations

import shutil
import threading
import time

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from safetensors.torch import save_file

from multiflora_adapters.base_model import BaseModel, Site
from multiflora_adapters.report import AdapterError, error
from multiflora_adapters.slots import SlotPool
from multiflora_adapters.store import ArtifactStore
from multiflora_adapters.weights import HostAdapter, SiteWeights, load_adapter
from multiflora_engine.core.adapter_source import AdapterUnavailable
from multiflora_engine.residency.adapter_residency import AdapterResidency

NAME = "model.layers.0.self_attn.q_proj"
BASE = BaseModel("base", "LlamaForCausalLM", "0" * 64, 1, {NAME: Site(NAME, 16, 16, 0)})
ROW_BYTES = 2 * 16 * 4


def make_host(digest: str, rank: int) -> HostAdapter:
    fill = float(sum(map(ord, digest)))
    site = SiteWeights(torch.full((rank, 16), fill), torch.full((rank, 16), fill), None)
    return HostAdapter(digest, rank, {NAME: site}, site.num_bytes)


class Files:
    """A disk of adapters "a4", "b8": the number is the rank. `broken` ones fail, `gate` holds reads up."""

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.reads: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def load(self, digest: str) -> HostAdapter:
        self.reads.append(digest)
        assert self.gate.wait(5)
        if digest in self.broken:
            raise AdapterError(error("file", "The stored adapter is damaged."))
        return make_host(digest, int(digest[1:]))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Harness:
    def __init__(self, rows: int = 16, slots: int = 8, max_cpu: int = 8, **options: int) -> None:
        self.files = Files()
        self.clock = Clock()
        self.pool = SlotPool(BASE, slots, rows, torch.float32, "cpu")
        self.residency = AdapterResidency(self.pool, self.files.load, max_cpu, clock=self.clock, **options)

    def settle(self) -> None:
        """Poll until no read is under way."""
        for _ in range(500):
            self.residency.poll()
            if not self.residency._host.reader.outstanding:
                return
            self.residency.wait(0.05)
        raise AssertionError("reads never end")

    def get(self, digest: str) -> int | None:
        self.residency.want(digest)
        self.settle()
        return self.residency.acquire(digest)


@pytest.fixture
def harness():
    made: list[Harness] = []

    def make(**options: int) -> Harness:
        made.append(Harness(**options))
        return made[-1]

    yield make
    for one in made:
        one.files.gate.set()
        one.residency.close()


def test_from_disk_to_slot(harness):
    h = harness()
    h.files.gate.clear()
    assert h.residency.state("a4") == "disk"
    assert h.residency.acquire("a4") is None
    assert h.residency.state("a4") == "loading"
    h.residency.poll()
    assert h.residency.state("a4") == "loading"
    h.files.gate.set()
    h.settle()
    assert h.residency.state("a4") == "cpu"
    (row,) = h.residency.snapshot()
    assert h.residency.memory() == (0, row.bytes)
    slot = h.residency.acquire("a4")
    assert h.residency.state("a4") == "slot"
    assert h.residency.memory() == (row.bytes, row.bytes)
    assert h.residency.acquire("a4") == slot
    assert int(h.pool.site(NAME).ranks[slot]) == 4
    assert (h.pool.site(NAME).a[:4] == float(ord("a") + ord("4"))).all()
    assert h.files.reads == ["a4"]
    assert (h.residency.loads, h.residency.evictions) == (1, 0)


def test_no_call_waits_for_a_read(harness):
    h = harness()
    h.files.gate.clear()
    started = time.perf_counter()
    for i in range(50):
        h.residency.want(f"x{i + 1}")
        assert h.residency.acquire(f"x{i + 1}") is None
        h.residency.poll()
    assert time.perf_counter() - started < 30.0, "reads never end here"


def test_idle_adapters_leave_in_order_of_use(harness):
    h = harness()
    for digest in ("a4", "b4", "c4", "d4"):
        assert h.get(digest) is not None
        h.clock.now += 1
    for digest in ("b4", "a4", "c4", "d4"):
        h.residency.release(digest)
        h.clock.now += 1
    assert h.get("e8") is not None
    assert [h.residency.state(d) for d in ("a4", "b4", "c4", "d4")] == ["cpu", "cpu", "slot", "slot"]
    assert h.residency.evictions == 2


def test_no_more_is_evicted_than_needed(harness):
    """The oldest one stands apart: evicting it would not help, so it stays."""
    h = harness()
    for digest in ("a2", "b4", "c6", "d4"):
        h.get(digest)
        h.clock.now += 1
    for digest in ("a2", "d4", "c6"):
        h.residency.release(digest)
        h.clock.now += 1
    assert h.get("e8") is not None
    assert [h.residency.state(d) for d in ("a2", "b4", "c6", "d4")] == ["slot", "slot", "cpu", "cpu"]


def test_adapters_in_use_stay(harness):
    h = harness()
    for digest in ("a8", "b8"):
        h.get(digest)
    assert h.get("c4") is None
    assert h.residency.state("c4") == "cpu"
    assert h.residency.state("a8") == h.residency.state("b8") == "slot"
    assert h.residency.evictions == 0
    h.residency.release("a8")
    assert h.residency.acquire("c4") is not None


def test_a_loaded_adapter_waits_for_its_user(harness):
    """Two that cannot both fit: the first keeps its slot until its request has had a turn, so neither starves."""
    h = harness(rows=8, bytes_per_poll=1)
    for digest in ("a8", "b8"):
        h.residency.want(digest)
    h.settle()
    assert h.residency.acquire("a8") is None
    while h.residency.state("a8") == "loading":
        h.residency.poll()
    assert h.residency.acquire("b8") is None, "a8 has just come and somebody asked for it"
    assert h.residency.acquire("a8") is not None
    h.residency.release("a8")
    h.residency.acquire("b8")
    assert h.residency.state("b8") == "loading"


def test_an_abandoned_adapter_makes_room(harness):
    h = harness(rows=8)
    h.residency.load("a8")
    h.settle()
    assert h.residency.state("a8") == "slot"
    assert h.get("b8") is None
    h.clock.now += 3
    assert h.get("b8") is not None


def test_copies_are_bounded_per_poll(harness, monkeypatch):
    monkeypatch.setattr("multiflora_adapters.device.copies._PIECE_BYTES", 64)
    h = harness(rows=16, bytes_per_poll=256)
    h.residency.want("a16")
    h.settle()
    polls = 0
    while h.residency.acquire("a16") is None:
        assert h.residency.state("a16") == "loading"
        h.residency.poll()
        polls += 1
    assert polls >= 16 * ROW_BYTES // 256 - 2


def test_a_vanished_file_fails_those_who_ask_and_is_tried_again(harness):
    h = harness()
    h.files.broken.add("a4")
    h.get("b4")
    assert h.residency.acquire("a4") is None
    h.settle()
    assert h.residency.state("a4") == "failed"
    with pytest.raises(AdapterUnavailable, match="damaged"):
        h.residency.acquire("a4")
    h.residency.want("a4")
    h.settle()
    assert h.files.reads.count("a4") == 1
    assert h.residency.state("b4") == "slot"
    h.files.broken.clear()
    h.clock.now += 6
    assert h.residency.state("a4") == "disk"
    assert h.get("a4") is not None


def test_load_forgets_a_failure_at_once(harness):
    h = harness()
    h.files.broken.add("a4")
    h.residency.load("a4")
    h.settle()
    assert h.residency.state("a4") == "failed"
    h.files.broken.clear()
    h.residency.load("a4")
    h.settle()
    assert h.residency.state("a4") == "slot"


@pytest.mark.parametrize("problem", [OSError(5, "Input/output error"), RuntimeError("surprise"), MemoryError()])
def test_any_failure_of_a_read_stays_with_its_adapter(problem, harness):
    h = harness()
    h.residency._host.reader._load = lambda digest: (_ for _ in ()).throw(problem)
    h.residency.want("a4")
    h.settle()
    with pytest.raises(AdapterUnavailable):
        h.residency.acquire("a4")


def test_a_device_out_of_memory_fails_the_adapter_alone(harness, monkeypatch):
    h = harness()

    def fail(*_):
        raise RuntimeError("out of memory")

    h.get("b4")
    monkeypatch.setattr("multiflora_adapters.slots.PoolSite.reserve", fail)
    assert h.get("a4") is None
    with pytest.raises(AdapterUnavailable, match="does not fit on the device"):
        h.residency.acquire("a4")
    assert h.residency.state("b4") == "slot"
    monkeypatch.undo()
    h.clock.now += 6
    assert h.get("a4") is not None


def test_host_memory_is_bounded_and_lru(harness):
    h = harness(rows=4, max_cpu=2)
    for digest in ("a4", "b4", "c4"):
        h.residency.want(digest)
        h.settle()
        h.clock.now += 3
    states = [h.residency.state(d) for d in ("a4", "b4", "c4")]
    assert states == ["disk", "cpu", "cpu"]


def test_reads_wait_while_host_memory_is_full_of_what_others_wait_for(harness):
    h = harness(rows=4, max_cpu=1)
    assert h.get("a4") is not None
    assert h.get("b4") is None
    for _ in range(5):
        h.residency.acquire("b4")
        h.residency.acquire("c4")
        h.settle()
    assert h.files.reads == ["a4", "b4"], "b4 is not driven out by c4 behind it"
    h.residency.release("a4")
    assert h.residency.acquire("b4") is not None
    h.residency.release("b4")
    assert h.get("c4") is not None


def test_pinned_adapters_stay(harness):
    h = harness(rows=16, reserved_rows=8)
    h.residency.pin("a8")
    h.settle()
    assert h.residency.state("a8") == "slot"
    assert h.residency.is_pinned("a8")
    h.clock.now += 10
    for digest in ("b8", "c8", "d8"):
        assert h.get(digest) is not None
        h.residency.release(digest)
    assert h.residency.state("a8") == "slot"
    h.residency.unpin("a8")
    assert h.get("e8") is not None
    assert h.get("f8") is not None
    assert h.residency.state("a8") == "cpu"


def test_pins_leave_room_for_the_others(harness):
    h = harness(rows=16, reserved_rows=8)
    h.residency.pin("a4")
    h.settle()
    with pytest.raises(AdapterUnavailable, match="unpin"):
        h.residency.pin("b8")
    assert not h.residency.is_pinned("b8")
    h.residency.pin("a4")


def test_waiting_for_pinned_rows_is_refused(harness):
    h = harness(rows=8)
    h.residency.pin("a8")
    h.settle()
    h.residency.want("b4")
    h.settle()
    with pytest.raises(AdapterUnavailable, match="no room"):
        h.residency.acquire("b4")


def test_a_pinned_adapter_that_splits_the_room_is_moved_while_nobody_uses_it(harness):
    h = harness(rows=12)
    for digest in ("a4", "b4", "c4"):
        h.get(digest)
    h.residency.pin("b4")
    for digest in ("a4", "b4", "c4"):
        h.residency.release(digest)
    assert h.get("d8") is not None
    h.settle()
    assert h.residency.state("b4") == h.residency.state("d8") == "slot"
    assert int(h.pool.offsets[h.residency.acquire("b4")]) == 8


def test_unload_waits_for_the_last_user(harness):
    h = harness()
    slot = h.get("a4")
    h.residency.unload("a4")
    assert h.residency.state("a4") == "slot"
    assert int(h.pool.site(NAME).ranks[slot]) == 4
    h.residency.release("a4")
    assert h.residency.state("a4") == "disk"
    assert h.pool.bytes_in_use == 0
    h.residency.unload("never-seen")


def test_an_unloaded_adapter_leaves_the_history_of_its_slot(harness):
    h = harness()
    slot = h.get("a4")
    h.residency.release("a4")
    h.residency.unload("a4")
    events = [(event.event, event.slot, event.digest) for event in h.residency.history()]
    assert events == [("load", slot, "a4"), ("evict", slot, "a4")]
    assert h.residency.evictions == 0, "nothing had to make room"


def test_who_leaves_for_one_more_is_told_before(harness):
    """By the rule that evicts: what was forecast is what happens then."""
    h = harness(rows=32, reserved_rows=16)
    for digest in ("a8", "b8", "c4"):
        h.get(digest)
        h.residency.release(digest)
        h.clock.now += 10
    h.get("d4")
    rows = {row.digest: (row.first_row, row.rank) for row in h.residency.snapshot()}
    assert rows == {"a8": (0, 8), "b8": (8, 8), "c4": (16, 4), "d4": (20, 4)}
    assert [(f.rank, f.digests) for f in h.residency.forecast()] == [(8, []), (16, ["a8", "b8"])]
    h.get("e16")
    assert [event.digest for event in h.residency.history() if event.event == "evict"] == ["a8", "b8"]
    assert {row.digest: row.first_row for row in h.residency.snapshot()}["a8"] is None
    # In use: a rank that only they could make room for finds none.
    assert [(f.rank, f.digests) for f in h.residency.forecast()] == [(8, []), (16, None)]


def test_unload_while_reading_or_copying(harness):
    h = harness(bytes_per_poll=1)
    h.files.gate.clear()
    h.residency.want("a4")
    h.residency.unload("a4")
    h.files.gate.set()
    h.settle()
    assert h.residency.snapshot() == []
    assert h.get("a4") is None
    assert h.residency.state("a4") == "loading"
    h.residency.unload("a4")
    h.residency.poll()
    assert h.pool.bytes_in_use == 0
    assert h.residency.state("a4") == "disk"


def test_what_a_command_wants_is_crowded_out_until_it_has_a_slot(harness):
    h = harness(rows=8, max_cpu=4)
    h.get("a8")
    h.residency.load("b8")
    assert h.residency.pending_placements() == []
    h.settle()
    assert h.residency.pending_placements() == ["b8"]
    h.residency.release("a8")
    h.residency.poll()
    assert h.residency.pending_placements() == []
    assert h.residency.state("b8") == "slot"


def test_what_can_never_fit_is_not_waited_for(harness):
    h = harness(rows=16, slots=8)
    h.residency.pin("a8")
    h.settle()
    h.residency.load("b16")
    h.settle()
    with pytest.raises(AdapterUnavailable, match="no room"):
        h.residency.acquire("b16")
    assert h.residency.pending_placements() == []


def test_an_adapter_that_a_command_waits_for_is_not_forgotten(harness, monkeypatch):
    monkeypatch.setattr("multiflora_engine.residency.adapter_residency._MAX_KNOWN", 4)
    h = harness(rows=8, max_cpu=1)
    h.get("a8")
    h.residency.load("b8")
    h.settle()
    for number in range(1, 6):
        h.clock.now += 10
        h.get(f"c{number}")
    assert h.residency.state("b8") == "disk"
    h.residency.release("a8")
    h.clock.now += 10
    h.settle()
    h.settle()
    assert h.residency.state("b8") == "slot"


def test_snapshot(harness):
    h = harness()
    slot = h.get("a4")
    h.residency.want("b8")
    h.settle()
    h.clock.now += 3
    rows = {row.digest: row for row in h.residency.snapshot()}
    assert (rows["a4"].slot, rows["a4"].idle_seconds, rows["b8"].slot) == (slot, 3, None)
    assert (rows["a4"].residency, rows["a4"].rank, rows["a4"].running) == ("slot", 4, 1)
    assert (rows["b8"].residency, rows["b8"].bytes, rows["b8"].running) == ("cpu", 8 * ROW_BYTES, 0)
    h.residency.pin("a4")
    assert {row.digest for row in h.residency.snapshot() if row.pinned} == {"a4"}


def test_known_digests_are_bounded(harness, monkeypatch):
    monkeypatch.setattr("multiflora_engine.residency.adapter_residency._MAX_KNOWN", 10)
    h = harness(rows=2, max_cpu=1)
    for i in range(40):
        h.residency.want(f"{chr(97 + i % 26)}{1 + i // 26}")
        h.settle()
        h.clock.now += 3
    assert len(h.residency.snapshot()) <= 11


def test_real_files(tmp_path, harness):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}')
    prefix = f"base_model.model.{NAME}"
    tensors = {f"{prefix}.lora_A.weight": torch.ones(2, 16), f"{prefix}.lora_B.weight": torch.ones(16, 2)}
    save_file(tensors, folder / "adapter_model.safetensors")
    store = ArtifactStore(tmp_path / "store")
    digest = store.add(folder).digest
    h = harness()
    h.residency._host.reader._load = lambda d: load_adapter(
        store.path(d), BASE, torch.float32, lambda name: torch.zeros(16, 16), digest=d
    )
    slot = h.get(digest)
    assert (h.pool.site(NAME).b[int(h.pool.offsets[slot])] == 4.0).all()
    h.residency.release(digest)
    h.residency.unload(digest)
    path = store.path(digest) / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    h.residency.want(digest)
    h.settle()
    with pytest.raises(AdapterUnavailable, match="damaged"):
        h.residency.acquire(digest)
    shutil.rmtree(store.path(digest))
    h.residency.load(digest)
    h.settle()
    with pytest.raises(AdapterUnavailable, match="missing"):
        h.residency.acquire(digest)


DIGESTS = ["a2", "b4", "c4", "d8", "e16", "f6"]


class SteppedReader:
    """In the place of the thread: a read happens when the test says so, which makes the machine deterministic."""

    def __init__(self, load) -> None:
        self._load = load
        self._waiting: list[str] = []
        self._done: list[tuple[str, HostAdapter | AdapterUnavailable]] = []

    @property
    def outstanding(self) -> int:
        return len(self._waiting) + len(self._done)

    def start(self, digest: str) -> None:
        self._waiting.append(digest)

    def step(self) -> None:
        if self._waiting:
            digest = self._waiting.pop(0)
            try:
                self._done.append((digest, self._load(digest)))
            except AdapterError as problem:
                self._done.append((digest, AdapterUnavailable(str(problem))))

    def wait(self, timeout: float) -> None:
        self.step()

    def finished(self) -> list[tuple[str, HostAdapter | AdapterUnavailable]]:
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        pass


class ResidencyMachine(RuleBasedStateMachine):
    """Any interleaving: used adapters keep their slot and their values, failures stay with theirs, limits hold."""

    def __init__(self) -> None:
        super().__init__()
        self.h = Harness(rows=24, slots=4, max_cpu=2, reserved_rows=16, bytes_per_poll=3 * ROW_BYTES)
        self.h.residency._host.reader = SteppedReader(self.h.files.load)
        self.users: dict[str, list[int]] = {}
        self.mirror: dict[str, str] = {}

    @rule(digest=st.sampled_from(DIGESTS))
    def want(self, digest):
        self.h.residency.want(digest)

    @rule(digest=st.sampled_from(DIGESTS))
    def acquire(self, digest):
        try:
            slot = self.h.residency.acquire(digest)
        except AdapterUnavailable:
            assert digest not in self.users
            return
        if slot is not None:
            self.users.setdefault(digest, []).append(slot)

    @precondition(lambda self: self.users)
    @rule(data=st.data())
    def release(self, data):
        digest = data.draw(st.sampled_from(sorted(self.users)))
        self.h.residency.release(digest)
        self.users[digest].pop()
        if not self.users[digest]:
            del self.users[digest]

    @rule(digest=st.sampled_from(DIGESTS), action=st.sampled_from(["load", "unload", "pin", "unpin"]))
    def command(self, digest, action):
        try:
            getattr(self.h.residency, action)(digest)
        except AdapterUnavailable:
            assert action == "pin"

    @rule(digest=st.sampled_from(DIGESTS))
    def toggle_file(self, digest):
        self.h.files.broken ^= {digest}

    @rule(seconds=st.sampled_from([0.1, 1.0, 2.5, 6.0]))
    def pass_time(self, seconds):
        self.h.clock.now += seconds

    @rule()
    def read(self):
        self.h.residency._host.reader.step()

    @rule()
    def poll(self):
        self.h.residency.poll()

    @rule()
    def settle(self):
        self.h.settle()
        for _ in range(30):
            self.h.settle()
        records = self.h.residency._records.values()
        assert not self.h.residency._uploads
        assert sum(r.host is not None for r in records) <= 2

    @invariant()
    def moves_tell_where_each_adapter_is(self):
        self.mirror |= self.h.residency.take_moves()
        here = {row.digest: row.residency for row in self.h.residency.snapshot()}
        told = {digest: place for digest, place in self.mirror.items() if place != "disk"}
        assert told == {digest: place for digest, place in here.items() if place != "disk"}

    @invariant()
    def used_slots_are_intact(self):
        taken = {}
        site = self.h.pool.site(NAME)
        for digest, slots in self.users.items():
            assert len(set(slots)) == 1
            assert self.h.residency.state(digest) == "slot"
            offset, rank = int(site.offsets[slots[0]]), int(site.ranks[slots[0]])
            assert rank == int(digest[1:])
            assert (site.a[offset : offset + rank] == float(sum(map(ord, digest)))).all()
            for row in range(offset, offset + rank):
                assert taken.setdefault(row, digest) == digest

    @invariant()
    def limits_hold(self):
        rows = self.h.residency.snapshot()
        assert sum(row.rank for row in rows if row.residency == "slot") <= 24
        assert {row.digest: row.running for row in rows if row.running} == {d: len(s) for d, s in self.users.items()}

    def teardown(self) -> None:
        """Whatever happened: once the others are gone and time passes, everybody is served."""
        residency = self.h.residency
        self.h.files.broken.clear()
        self.h.settle()
        for digest, slots in self.users.items():
            for _ in slots:
                residency.release(digest)
        for digest in DIGESTS:
            residency.unpin(digest)
        for digest in DIGESTS:
            self.h.clock.now += 10
            for _ in range(40):
                slot = residency.acquire(digest)
                if slot is not None:
                    break
                self.h.settle()
                self.h.clock.now += 0.1
            assert slot is not None, digest
            residency.release(digest)


ResidencyMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestResidency = ResidencyMachine.TestCase


def test_held_adapters_that_do_not_fit_are_not_read_again_and_again(harness):
    h = harness(rows=8, max_cpu=1)
    assert h.get("a8") is not None
    for digest in ("b8", "c8", "d8"):
        h.residency.load(digest)
    for _ in range(20):
        h.settle()
        h.clock.now += 1
    assert len(h.files.reads) == 4
    h.residency.release("a8")
    for _ in range(20):
        h.settle()
        h.clock.now += 1
    assert h.residency.loads == 4, "all of them had their turn"
    assert len(h.files.reads) <= 7


def test_a_long_queue_costs_a_step_little(harness):
    """Hundreds of known adapters, all slots in use: asking for each of them must not make the step slow."""
    h = harness(rows=64, slots=64, max_cpu=64)
    digests = [f"{chr(0x100 + i)}1" for i in range(400)]
    for digest in digests:
        h.residency.load(digest)
    for _ in range(300):
        h.settle()
        h.clock.now += 3
    for digest in digests[:64]:
        h.get(digest)
    started = time.thread_time()
    for digest in digests:
        h.residency.acquire(digest)
    h.residency.poll()
    assert time.thread_time() - started < 0.25
