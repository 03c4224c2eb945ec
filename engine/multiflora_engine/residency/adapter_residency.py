"""Which adapters are where: disk -> host -> device slot, LRU at both levels, never blocking the step loop.

Files are read in the background, copies to slots happen in bounded pieces. Knows digests only; in which order requests
get their adapters is the scheduler's business: the sequence that it asks for first gets the room.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice

from multiflora_adapters.kv_reach import KvReach
from multiflora_adapters.slots import SlotPool
from multiflora_adapters.weights import HostAdapter
from multiflora_engine.core.adapter_source import AdapterState, AdapterUnavailable, NoRoomForAdapter
from multiflora_engine.protocol.messages import EvictionForecast, ResidencyReport, SlotEvent
from multiflora_engine.residency.host_cache import HostAdapters
from multiflora_engine.residency.records import AdapterRecord

_MAX_KNOWN = 1024
_PLACED_PER_POLL = 8
_REMEMBERED_EVENTS = 500
_FORECAST_RANKS = (8, 16, 32, 64, 128, 256)


class AdapterResidency:
    """Brings adapters where requests need them (the scheduler's AdapterSource). Thread-safe; nothing waits for a disk.

    load(digest): reads an adapter into host memory, on the background thread; what it raises makes the adapter
    unavailable for a few seconds. forget(digest): told when that copy is dropped. reserved_rows: rank rows that pins
    must leave to the others (the highest rank). bytes_per_poll: None: as many as the pool's device takes at once.
    loads, evictions: adapters that came to and were driven from slots, since the start.
    """

    def __init__(
        self,
        pool: SlotPool,
        load: Callable[[str], HostAdapter],
        max_cpu_loras: int,
        *,
        reserved_rows: int = 0,
        bytes_per_poll: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        forget: Callable[[str], None] = lambda digest: None,
    ) -> None:
        self._pool = pool
        # Digests of those that came to another place since `take_moves`.
        self._moved: set[str] = set()
        self._host = HostAdapters(load, max_cpu_loras, clock, self._moved, forget)
        self._reserved_rows = reserved_rows
        self._bytes_per_poll = self._bytes_left = bytes_per_poll or pool.bytes_at_once
        self._clock = clock
        self._records: dict[str, AdapterRecord] = {}
        self._in_slots: dict[int, AdapterRecord] = {}
        self._uploads: deque[AdapterRecord] = deque()
        self._wanted: dict[str, None] = {}  # an ordered set: what load and pin want in a slot, first come first served
        self._lock = threading.RLock()
        self._history: deque[SlotEvent] = deque(maxlen=_REMEMBERED_EVENTS)
        self.loads = 0
        self.evictions = 0

    def state(self, digest: str) -> AdapterState:
        """ "loading": on its way. "cpu": in host memory, so what it lacks is room. "failed": for a few seconds."""
        with self._lock:
            record = self._records.get(digest)
            return "disk" if record is None else record.state(self._clock())

    def want(self, digest: str) -> None:
        """Start bringing the adapter to host memory, unless it is there, on its way, or has just failed."""
        with self._lock:
            self._host.read(self._touch(digest))

    def acquire(self, digest: str) -> int | None:
        """The adapter's slot, with one more user; None while it loads or while there is no room.

        Idle adapters make room, the longest unused first. Raises AdapterUnavailable when it cannot be loaded, or when
        pinned adapters leave no room for it.
        """
        with self._lock:
            record = self._touch(digest)
            if record.state(record.touched_at) == "failed":
                assert record.failure is not None, "an adapter fails for a reason"
                raise type(record.failure)(*record.failure.args)
            if record.slot is None and not self._place(record):
                self._check_attainable(record)
                return None
            # A small adapter is often complete within what this step may still copy; then its sequence starts at once.
            self._continue_uploads()
            if record.slot is None or record.upload is not None:
                return None
            record.users += 1
            record.used = True
            return record.slot

    def kv_reach(self, digest: str) -> KvReach:
        """What the KV of an acquired adapter depends on."""
        with self._lock:
            reach = self._records[digest].kv_reach
            assert reach is not None, "it was read before it came to its slot"
            return reach

    def memory(self) -> tuple[int, int]:
        """Bytes that adapters take now, on all ranks: in slots, and as copies in host memory."""
        with self._lock:
            in_slots = sum(record.num_bytes for record in self._in_slots.values())
            return in_slots, sum(record.num_bytes for record in self._records.values() if record.host is not None)

    def stage_memory(self) -> list[int]:
        """Of each stage, bytes that adapters take in slots; empty where there is one rank, or none is there."""
        with self._lock:
            return [
                sum(stage) for stage in zip(*(record.stage_bytes for record in self._in_slots.values()), strict=True)
            ]

    def release(self, digest: str) -> None:
        """End one use."""
        with self._lock:
            record = self._records[digest]
            assert record.users > 0, "released more often than acquired"
            record.users -= 1
            record.touched_at = self._clock()
            if record.dropped and not record.users:
                self._drop(record)

    def is_pinned(self, digest: str) -> bool:
        """Whether the adapter keeps its slot when no sequence uses it."""
        with self._lock:
            return digest in self._records and self._records[digest].pinned

    def pending_placements(self) -> list[str]:
        """What load and pin want in a slot and what has found no room there."""
        with self._lock:
            now = self._clock()
            return [digest for digest in self._wanted if self._records[digest].state(now) in ("cpu", "disk")]

    def poll(self) -> None:
        """Once per step: take what was read, start reads, and copy at most about `bytes_per_poll` to slots."""
        with self._lock:
            self._bytes_left = self._bytes_per_poll
            if not self._records:
                return  # whatever is read, wanted or copied has a record
            self._take_finished_reads()
            self._place_wanted()
            self._host.start_reads()
            self._continue_uploads()

    def wait(self, timeout: float) -> bool:
        """Sleep until a background read ends, at most `timeout` seconds; for a loop that has nothing else to do."""
        return self._host.reader.wait(timeout)

    def load(self, digest: str) -> None:
        """Bring the adapter to a slot without a request; a remembered failure is forgotten."""
        with self._lock:
            record = self._touch(digest)
            record.failure = None
            self._wanted.setdefault(digest)
            self._host.read(record)

    def unload(self, digest: str) -> None:
        """Forget the adapter, in slots and in host memory: now, or as soon as its last user has gone. Unpins it."""
        with self._lock:
            record = self._records.get(digest)
            if record is None:
                return
            record.pinned = False
            self._wanted.pop(digest, None)
            record.dropped = True
            if not record.users:
                self._drop(record)

    def pin(self, digest: str) -> None:
        """Load the adapter and keep it in its slot. Raises AdapterUnavailable if that left too little to the others."""
        with self._lock:
            # The rank of an adapter that was never read is unknown: it counts as the highest.
            others = sum(r.rank or self._reserved_rows for r in self._records.values() if r.pinned)
            record = self._touch(digest)
            needed = 0 if record.pinned else record.rank or self._reserved_rows
            if others + needed > self._pool.num_rows - self._reserved_rows:
                raise NoRoomForAdapter(
                    "Pinning it would leave too little room for the other adapters; unpin one or raise --max-loras."
                )
            record.pinned = True
            if record.slot is None:
                self.load(digest)

    def unpin(self, digest: str) -> None:
        """Let the adapter be evicted again."""
        with self._lock:
            if digest in self._records:
                self._records[digest].pinned = False
                self._wanted.pop(digest, None)

    def snapshot(self) -> list[ResidencyReport]:
        """All adapters in memory and the latest that were."""
        with self._lock:
            now = self._clock()
            return [record.row(now) for record in self._records.values()]

    def take_moves(self) -> dict[str, str]:
        """Where those are now that have moved since the last call: slot, cpu or disk, by digest."""
        if not self._moved:
            return {}
        with self._lock:
            now = self._clock()
            moved = {digest: self._records.get(digest) for digest in self._moved}
            self._moved.clear()
            return {digest: "disk" if one is None else one.row(now).residency for digest, one in moved.items()}

    def close(self) -> None:
        """End the background thread after the read it is at."""
        self._host.reader.close()

    def history(self) -> list[SlotEvent]:
        """Loads and evictions, oldest first."""
        with self._lock:
            return list(self._history)

    def forecast(self) -> list[EvictionForecast]:
        """Which adapters would leave for one more, by its rank, up to the highest that is served."""
        with self._lock:
            highest = self._reserved_rows or self._pool.num_rows
            ranks = [*(rank for rank in _FORECAST_RANKS if rank < highest), highest]
            leaving = [self._victims_for(AdapterRecord("", rank=rank)) for rank in ranks]
        return [
            EvictionForecast(rank, None if left is None else [record.digest for record in left])
            for rank, left in zip(ranks, leaving, strict=True)
        ]

    def _note(self, event: str, record: AdapterRecord, seconds: float) -> None:
        assert record.slot is not None, "something happened to a slot"
        self._history.append(SlotEvent(time.time(), event, record.slot, record.digest, seconds, record.num_bytes))

    def _touch(self, digest: str) -> AdapterRecord:
        record = self._records.get(digest)
        if record is None:
            self._forget_oldest()
            record = self._records[digest] = AdapterRecord(digest)
        record.touched_at = self._clock()
        # Asked for again after an operator unloaded it, while its last sequences still run: it stays.
        record.dropped = False
        if record.slot is None and not record.wanted_since:
            record.wanted_since = record.touched_at
        return record

    def _forget_oldest(self) -> None:
        if len(self._moved) > _MAX_KNOWN:
            self._moved.clear()  # no step loop asks for them, for one does so in each step
        if len(self._records) >= _MAX_KNOWN:
            now = self._clock()
            idle = [r for r in self._records.values() if r.state(now) == "disk" and r.digest not in self._wanted]
            idle = [r for r in idle if not r.pinned]
            if idle:
                del self._records[min(idle, key=lambda r: r.touched_at).digest]

    def _take_finished_reads(self) -> None:
        for record in self._host.take_finished():
            if record.failure is not None:
                self._stop_placing(record)
            if record.dropped:
                self._drop(record)

    def _stop_placing(self, record: AdapterRecord) -> None:
        """After a failure only pins are tried again by themselves."""
        if not record.pinned:
            self._wanted.pop(record.digest, None)

    def _place(self, record: AdapterRecord) -> bool:
        """Begin the upload if the adapter is in host memory and fits, also by evicting idle ones."""
        if record.host is None:
            self._host.read(record)
            return False
        upload = self._pool.begin(record.host, at_end=record.pinned)
        if upload is None:
            for victim in self._victims_for(record) or ():
                self._evict(victim)
            upload = self._pool.begin(record.host, at_end=record.pinned)
        if upload is None:
            return False
        record.slot, record.upload, record.used = upload.slot, upload, False
        record.first_row = self._pool.first_row(upload.slot)
        self._in_slots[upload.slot] = record
        self._uploads.append(record)
        return True

    def _victims_for(self, record: AdapterRecord) -> list[AdapterRecord] | None:
        """The idle adapters to evict so that the record's fits, the longest unused first; None when that is impossible.

        Pinned adapters that no sequence uses right now are moved only if there is no other way: they stand amid the
        rows that would be enough together, and come back by themselves.
        """
        now = self._clock()
        idle = sorted((r for r in self._in_slots.values() if r.is_idle(now)), key=lambda r: (r.pinned, r.touched_at))
        if not self._fits_without(record, idle):
            return None
        chosen: list[AdapterRecord] = []
        while not self._fits_without(record, chosen):
            chosen.append(idle.pop(0))
        # Rows must lie side by side: adapters chosen by age that do not border on the room that came free stay.
        for victim in reversed(chosen[:]):
            rest = [r for r in chosen if r is not victim]
            if self._fits_without(record, rest):
                chosen = rest
        return chosen

    def _fits_without(self, record: AdapterRecord, others: Iterable[AdapterRecord]) -> bool:
        slots = {r.slot for r in others if r.slot is not None}
        return self._pool.would_fit(record.rank, slots, record.own_bytes)

    def _evict(self, record: AdapterRecord) -> None:
        assert not record.users, "only idle adapters are evicted"
        self._note("evict", record, 0.0)
        self._leave_slot(record)
        self.evictions += 1
        if record.pinned:
            self._wanted.setdefault(record.digest)

    def _leave_slot(self, record: AdapterRecord) -> None:
        assert record.slot is not None, "it has no slot to leave"
        if record.upload is not None:
            self._uploads.remove(record)
        self._pool.remove(record.slot)
        self._moved.add(record.digest)
        del self._in_slots[record.slot]
        record.slot = record.first_row = record.upload = None

    def _place_wanted(self) -> None:
        for digest in list(islice(self._wanted, _PLACED_PER_POLL)):
            record = self._records[digest]
            del self._wanted[digest]
            if record.slot is None and not self._place_when_room(record):
                # To the end of the line: an adapter that finds no room must not hold up smaller ones.
                self._wanted[digest] = None

    def _place_when_room(self, record: AdapterRecord) -> bool:
        """As _place, but reads it only when there is room: before that it would drive others out of host memory."""
        if record.host is None and record.rank and self._victims_for(record) is None:
            return False
        return self._place(record)

    def _continue_uploads(self) -> None:
        while self._uploads and self._bytes_left > 0:
            record = self._uploads[0]
            assert record.upload is not None
            try:
                copied, complete = record.upload.step(self._bytes_left)
            except RuntimeError as problem:  # the device is out of memory: this adapter fails, the loop goes on
                self._leave_slot(record)
                record.fail(AdapterUnavailable(f"The adapter does not fit on the device: {problem}"), self._clock())
                self._stop_placing(record)
                continue
            self._bytes_left -= copied
            if complete:
                record.upload = None
                self._uploads.popleft()
                self.loads += 1
                self._moved.add(record.digest)
                self._note("load", record, self._clock() - record.wanted_since)
                record.wanted_since = 0.0
            elif not copied:
                return  # all of it is under way

    def _check_attainable(self, record: AdapterRecord) -> None:
        """Raise when waiting is in vain: pinned adapters leave less than this one needs."""
        pinned = [r for r in self._in_slots.values() if r.pinned]
        rows = self._pool.num_rows - sum(r.rank for r in pinned)
        if record.rank > rows or len(pinned) >= self._pool.num_slots:
            self._stop_placing(record)
            raise NoRoomForAdapter(
                f"There is no room for an adapter of rank {record.rank}: {len(pinned)} pinned adapters leave {rows} "
                "rank rows. Unpin one or raise --max-loras."
            )
        left = self._pool.own_budget - sum(r.own_bytes for r in pinned)
        if record.own_bytes > left:
            self._stop_placing(record)
            raise NoRoomForAdapter(
                f"The adapter's own embedding, head and LoRA on experts take {record.own_bytes} bytes of the device; "
                f"beside {len(pinned)} pinned adapters there are {left}. Raise --adapter-matrix-memory."
            )

    def _drop(self, record: AdapterRecord) -> None:
        if record.slot is not None:
            if record.upload is None:  # its load is in the history, so its end must be, too
                self._note("evict", record, 0.0)
            self._leave_slot(record)
        self._host.drop(record)
        if not record.reading:
            self._records.pop(record.digest, None)
