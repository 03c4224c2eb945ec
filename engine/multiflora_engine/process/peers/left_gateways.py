"""Gateways whose lines have ended: what is held for them stays for a while, in case they come back.

Knows gateways by the names that they gave themselves, not lines, and not what is held.
"""

from __future__ import annotations

import time
from collections.abc import Callable

LEASE_SECONDS = 30.0


class LeftGateways:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # When the lease of each is over.
        self._until: dict[str, float] = {}

    def left(self, gateway: str) -> None:
        """Its last line has ended."""
        self._until[gateway] = self._clock() + LEASE_SECONDS

    def came(self, gateway: str) -> None:
        """It has a line, again or for the first time."""
        self._until.pop(gateway, None)

    def take_ended(self) -> list[str]:
        """Those whose leases have ended; each once."""
        now = self._clock()
        over = [gateway for gateway, until in self._until.items() if until <= now]
        for gateway in over:
            del self._until[gateway]
        return over
