"""How many replicas a load wants, and what keeps their number from swinging. Knows numbers alone; starts nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

_MOST_KEYS = 1 << 19
"""That a generation of HotBlocks may have, of 8 bytes each and about a hundred with the set's own."""


class Load(NamedTuple):
    """Of the replicas that take requests.

    queue_seconds: until a prompt that comes now would begin, on average. kv_use: of their KV blocks, the share that
    sequences hold. seats: of max_num_seqs, the share that runs. hot_blocks: different ones that were found again
    lately. blocks: KV blocks of one replica.
    """

    replicas: int
    queue_seconds: float
    kv_use: float
    seats: float
    hot_blocks: int
    blocks: int


@dataclass(frozen=True)
class Targets:
    """queue_seconds, kv_use, seats: of Load, what is as much as should be.

    up_after, down_after: seconds for which more, or fewer, must have been wanted without a break.
    """

    queue_seconds: float = 1.0
    kv_use: float = 0.85
    seats: float = 0.8
    up_after: float = 10.0
    down_after: float = 300.0


def wanted(load: Load, targets: Targets) -> int:
    """At least as many as have room for what is hot: what a replica takes with it would be computed again."""
    pressure = max(load.queue_seconds / targets.queue_seconds, load.kv_use / targets.kv_use, load.seats / targets.seats)
    return max(1, math.ceil(load.replicas * pressure), min(load.replicas, math.ceil(load.hot_blocks / load.blocks)))


class Scaler:
    """least, most: replicas that there may be."""

    def __init__(self, least: int, most: int, targets: Targets) -> None:
        self._least = least
        self._most = most
        self._targets = targets
        # Since when more (1) or fewer (-1) are wanted, and the number nearest to the present one that was wanted since.
        self._direction, self._since, self._nearest = 0, 0.0, 0

    def decide(self, load: Load, now: float) -> int:
        """How many there should be from now on; now: seconds. Asked again and again while none starts or ends."""
        asked = min(max(wanted(load, self._targets), self._least), self._most)
        direction = (asked > load.replicas) - (asked < load.replicas)
        if direction != self._direction:
            self._direction, self._since, self._nearest = direction, now, asked
        self._nearest = (min if direction > 0 else max)(self._nearest, asked)
        patience = self._targets.up_after if direction > 0 else self._targets.down_after
        if not direction or now - self._since < patience:
            return load.replicas
        self._direction = 0
        return self._nearest


class HotBlocks:
    """Different blocks that requests found again in the last `window` seconds, half of it more or less."""

    def __init__(self, window: float) -> None:
        self._half = window / 2
        self._turned = 0.0
        self._now: set[bytes] = set()
        self._before: set[bytes] = set()

    def note(self, keys: Iterable[bytes], now: float) -> None:
        self._turn(now)
        self._now.update(keys)

    def count(self, now: float) -> int:
        self._turn(now)
        return len(self._now | self._before)

    def _turn(self, now: float) -> None:
        passed = now - self._turned
        if passed >= self._half or len(self._now) > _MOST_KEYS:
            self._before, self._now = self._now if passed < 2 * self._half else set(), set()
            self._turned = now
