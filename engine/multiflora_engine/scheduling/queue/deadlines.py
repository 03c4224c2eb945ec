"""When requests have to be over. Knows requests by id and serial number alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from heapq import heapify, heappop, heappush

_SPARE = 64


class Deadlines:
    """Unix seconds. earliest: of all that have not passed, infinity without any; nothing is due before."""

    def __init__(self) -> None:
        self.earliest = math.inf
        self._heap: list[tuple[float, int, str]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def note(self, deadline: float, serial: int, request_id: str, live: Collection[str]) -> None:
        """serial: higher than those of the request's sequences, lower than those of any later request.

        live: ids of the requests that have not ended.
        """
        if len(self._heap) > 2 * len(live) + _SPARE:
            # Most belong to requests that ended long before: distant deadlines must not pile up until they pass.
            self._heap = [item for item in self._heap if item[2] in live]
            heapify(self._heap)
        heappush(self._heap, (deadline, serial, request_id))
        self.earliest = self._heap[0][0]

    def passed(self, now: float) -> Iterator[tuple[int, str]]:
        """(serial, request id) of each deadline up to now, once."""
        while self.earliest <= now:
            _, serial, request_id = heappop(self._heap)
            self.earliest = self._heap[0][0] if self._heap else math.inf
            yield serial, request_id
