"""What residency knows of one adapter, and what follows from it. Moves nothing itself."""

from __future__ import annotations

from dataclasses import dataclass

from multiflora_adapters.kv_reach import KvReach
from multiflora_adapters.slots import SlotUpload
from multiflora_adapters.weights import HostAdapter
from multiflora_engine.core.adapter_source import AdapterState, AdapterUnavailable
from multiflora_engine.protocol.messages import ResidencyReport

RETRY_SECONDS = 5.0
DEMAND_SECONDS = 2.0


@dataclass(eq=False)
class AdapterRecord:
    """One adapter on its way from disk to slot. HostAdapters fills `reading` and `host`, AdapterResidency the rest.

    All times are monotonic seconds.
    """

    digest: str
    # When a request or an operator last asked for it, or a sequence let go of it.
    touched_at: float = 0.0
    # Queued to be read from disk, or being read.
    reading: bool = False
    # Its copy in host memory.
    host: HostAdapter | None = None
    # Its slot, from the moment its upload begins.
    slot: int | None = None
    # The first of its rank rows, while it has a slot.
    first_row: int | None = None
    # The copy to the slot; None once it is complete.
    upload: SlotUpload | None = None
    # Sequences that hold the slot.
    users: int = 0
    # Whether a sequence has used it since it came to the slot.
    used: bool = False
    # An operator wants it to keep its slot.
    pinned: bool = False
    # An operator has unloaded it: it is forgotten once no sequence uses it and no read of it runs.
    dropped: bool = False
    # Why it could last not be loaded, and when that was; None: it was read since.
    failure: AdapterUnavailable | None = None
    failed_at: float = 0.0
    # Of the copy that was last read, known even when that is dropped; 0 before the first. Bytes are those of all ranks.
    rank: int = 0
    num_bytes: int = 0
    # The same of each stage, where there are several.
    stage_bytes: tuple[int, ...] = ()
    # Of a rank's, those that need room of their own beside the rank rows.
    own_bytes: int = 0
    # Of the copy that was last read; None before the first.
    kv_reach: KvReach | None = None
    # When it was first wanted in a slot where it is not; 0 while it is there or not wanted.
    wanted_since: float = 0.0

    def arrived(self, host: HostAdapter) -> None:
        """It was read into host memory."""
        self.host = host
        self.failure = None
        self.rank = host.rank
        self.num_bytes = sum(host.stage_bytes) or host.num_bytes
        self.stage_bytes = host.stage_bytes
        self.own_bytes = host.own_bytes
        self.kv_reach = host.kv_reach or KvReach(self.digest)

    def fail(self, reason: AdapterUnavailable, now: float) -> None:
        """It cannot be used; asked for again it is tried again, after a while."""
        self.failure = reason
        self.failed_at = now

    def state(self, now: float) -> AdapterState:
        if self.slot is not None:
            return "slot" if self.upload is None else "loading"
        if self.failure is not None and now - self.failed_at < RETRY_SECONDS:
            return "failed"
        if self.reading:
            return "loading"
        return "cpu" if self.host is not None else "disk"

    def is_idle(self, now: float) -> bool:
        """Whether it may leave its slot: no sequence uses it, nor is about to after having waited for its upload."""
        ready = self.slot is not None and self.upload is None and not self.users
        return ready and (self.used or not self._is_in_demand(now))

    def keeps_host(self, now: float) -> bool:
        """Whether a request or an operator waits for its host copy to reach a slot."""
        waiting = self.slot is None and self._is_in_demand(now)
        return self.host is not None and (waiting or self.upload is not None)

    def row(self, now: float) -> ResidencyReport:
        state = self.state(now)
        in_host = state == "cpu" or (state == "loading" and self.host is not None)
        return ResidencyReport(
            digest=self.digest,
            residency="slot" if state == "slot" else "cpu" if in_host else "disk",
            pinned=self.pinned,
            rank=self.rank,
            bytes=self.num_bytes,
            running=self.users,
            slot=self.slot if state == "slot" else None,
            idle_seconds=max(0.0, now - self.touched_at),
            first_row=self.first_row if state == "slot" else None,
        )

    def _is_in_demand(self, now: float) -> bool:
        return now - self.touched_at < DEMAND_SECONDS
