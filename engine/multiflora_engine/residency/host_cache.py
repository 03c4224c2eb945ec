"""Adapters in host memory: what is read next, what is kept, what is dropped. Knows nothing of slots or users."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from multiflora_adapters.weights import HostAdapter
from multiflora_engine.residency.disk_reader import AdapterReader
from multiflora_engine.residency.records import AdapterRecord

_READS_AHEAD = 2


class HostAdapters:
    """At most `max_adapters` copies, least recently asked for dropped first; what a request waits for is kept.

    Not thread-safe by itself: residency's lock guards it. moved: gets the digests of copies that come and go. forget:
    told of each copy that is dropped.
    """

    def __init__(
        self,
        load: Callable[[str], HostAdapter],
        max_adapters: int,
        clock: Callable[[], float],
        moved: set[str],
        forget: Callable[[str], None],
    ) -> None:
        self.reader = AdapterReader(load)
        self._max_adapters = max(1, max_adapters)
        self._clock = clock
        self._moved = moved
        self._forget = forget
        self._copies: dict[str, AdapterRecord] = {}
        self._queue: deque[AdapterRecord] = deque()
        self._reading: dict[str, AdapterRecord] = {}

    def read(self, record: AdapterRecord) -> None:
        """Queue the adapter for reading, unless it is in memory, on its way, or has just failed."""
        if record.state(self._clock()) == "disk":
            record.reading = True
            self._queue.append(record)
            self.start_reads()

    def start_reads(self) -> None:
        """Start as many as memory has room for, beside copies that requests wait for and that have no slot yet."""
        while self._queue and self.reader.outstanding < _READS_AHEAD:
            kept = sum(record.keeps_host(self._clock()) for record in self._copies.values())
            if kept + self.reader.outstanding >= self._max_adapters:
                return
            record = self._queue.popleft()
            self._reading[record.digest] = record
            self.reader.start(record.digest)

    def take_finished(self) -> list[AdapterRecord]:
        """The records whose read ended since the last call, well or not."""
        ended = []
        for digest, result in self.reader.finished():
            record = self._reading.pop(digest)
            record.reading = False
            if isinstance(result, HostAdapter):
                record.arrived(result)
                self._copies[digest] = record
                self._moved.add(digest)
                self._trim(record)
            else:
                record.fail(result, self._clock())
            ended.append(record)
        self._trim(None)  # copies that could not be dropped before, because their upload ran
        return ended

    def drop(self, record: AdapterRecord) -> None:
        """Forget its copy and its place in the queue. A read that runs already goes on; `reading` tells."""
        record.host = None
        if self._copies.pop(record.digest, None) is not None:
            self._moved.add(record.digest)
            self._forget(record.digest)
        if record in self._queue:
            self._queue.remove(record)
            record.reading = False

    def _trim(self, newest: AdapterRecord | None) -> None:
        surplus = len(self._copies) - self._max_adapters
        if surplus <= 0:
            return
        now = self._clock()
        others = [r for r in self._copies.values() if r.upload is None and r is not newest]
        for record in sorted(others, key=lambda r: (r.keeps_host(now), r.touched_at))[:surplus]:
            self.drop(record)
