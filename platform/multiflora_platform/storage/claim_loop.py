"""Takes up work whose rows stand in the database, claim by claim, while there is room for more.

Knows neither the rows nor the work. Any process on the database may take up any of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from multiflora_platform.web.problems import InsufficientStorage, Unavailable

_log = logging.getLogger(__name__)

Claimed = TypeVar("Claimed")


class ClaimLoop(ABC, Generic[Claimed]):
    """`start()`, then `kick()` whenever there is new work, or room for more.

    what: is claimed, for the log. look_seconds: between two looks while some work has not ended, whoever does it.
    """

    def __init__(self, what: str, look_seconds: float) -> None:
        self._what = what
        self._look_seconds = look_seconds
        self._news = asyncio.Event()
        self._closing = False
        self._loop: asyncio.Task[None] | None = None

    @abstractmethod
    def _has_room(self) -> bool: ...

    @abstractmethod
    async def _is_any_free(self) -> bool | None:
        """Whether `_claim` would find one; None: all work has ended, and the next makes itself known. It only reads: a
        write at each look would keep the disk, and all who wait for a change, from their rest."""

    @abstractmethod
    async def _claim(self) -> Claimed | None:
        """None: another process was faster."""

    @abstractmethod
    def _begin(self, claimed: Claimed) -> None: ...

    @abstractmethod
    async def _give_back(self, claimed: Claimed) -> None: ...

    def start(self) -> None:
        """Begins with what an earlier process left."""
        self._loop = asyncio.create_task(self._run())

    def kick(self) -> None:
        self._news.set()

    async def _stop_taking(self) -> None:
        """Nothing is begun any more."""
        self._closing = True
        if self._loop is not None:
            # Not cancelled: a claim may be written already, and its work would wait for the end of its lease.
            self.kick()
            await asyncio.gather(self._loop, return_exceptions=True)

    async def _run(self) -> None:
        while not self._closing:
            pause: float | None = self._look_seconds
            try:
                pause = await self._take_up()
            except (InsufficientStorage, Unavailable):
                pass  # the follower logs it; work waits for the database, too
            except Exception:
                _log.exception("no %s could be claimed; trying again", self._what)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), pause)
            self._news.clear()

    async def _take_up(self) -> float | None:
        """Begin what is free. Returns the seconds until the next look; None: not before there is news."""
        while not self._closing and self._has_room():
            is_any_free = await self._is_any_free()
            if is_any_free is None:
                return None
            claimed = await self._claim() if is_any_free else None
            if claimed is None:
                break
            if self._closing:
                await self._give_back(claimed)
            else:
                self._begin(claimed)
        return self._look_seconds
