"""A fleet whose engines come and go elsewhere, kept as the table of engines has it. Knows no sockets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from multiflora_engine.protocol.messages import PROTOCOL
from multiflora_platform.fleet.fleet import Fleet
from multiflora_platform.fleet.hosts.far_engine import FarReplica
from multiflora_platform.fleet.hosts.replica_table import Listing, listed
from multiflora_platform.storage.database import Database
from multiflora_platform.web.problems import Problem

_log = logging.getLogger(__name__)
_LOOK_SECONDS = 1.0


class FollowedFleet:
    """`start` it, and `close` it. reach: a replica for an engine of the table, not started. public_key: of all engines
    that share our secret.

    An engine joins when the table has it. It leaves when the table has it no more and no line to it holds: a database
    that is away, or a lease that was not renewed in time, takes no engine that answers.
    """

    def __init__(
        self, fleet: Fleet, database: Database, group: str, public_key: str, reach: Callable[[Listing], FarReplica]
    ) -> None:
        self.fleet = fleet
        self._database = database
        self._group = group
        self._public_key = public_key
        self._reach = reach
        self._replicas: dict[str, FarReplica] = {}
        # Engines that are not used, by id and cause: each is told of once.
        self._refused: set[tuple[str, str]] = set()
        self._is_away = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._look()
        self._task = asyncio.create_task(self._follow(), name="following the table of engines")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*(self._drop(replica) for replica in list(self._replicas.values())))

    async def wait_ready(self) -> None:
        """Until an engine serves."""
        while self.fleet.ready is None:  # noqa: ASYNC110 - whichever of them comes first, and it may not be known yet
            await asyncio.sleep(0.05)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                await self._look()
            except Exception:
                _log.exception("the table of engines could not be followed; trying again")

    async def _look(self) -> None:
        try:
            listings = await listed(self._database, self._group)
        except Problem as problem:
            if not self._is_away:
                _log.warning("The table of engines cannot be read; those that are known go on: %s", problem.detail)
            self._is_away = True
            return
        self._is_away = False
        await self._follow_table([listing for listing in listings if self._is_ours(listing)])

    async def _follow_table(self, listings: Sequence[Listing]) -> None:
        present = {listing.id for listing in listings}
        for replica in list(self._replicas.values()):
            if replica.id not in present and replica.ready is None:
                _log.info("The engine %s has left", replica.id)
                await self._drop(replica)
        for listing in listings:
            if listing.id not in self._replicas:
                replica = self._replicas[listing.id] = self._reach(listing)
                self.fleet.add(replica)
                await replica.start()
                _log.info("The engine %s of %s joins", listing.id, listing.host)

    async def _drop(self, replica: FarReplica) -> None:
        replica.retired = True
        del self._replicas[replica.id]
        await replica.supervisor.stop()
        self.fleet.remove(replica)

    def _is_ours(self, listing: Listing) -> bool:
        """Whether it could understand us, and we it."""
        if listing.protocol == PROTOCOL and listing.public_key == self._public_key:
            return True
        cause = "another release" if listing.protocol != PROTOCOL else "another secret (--secret-file)"
        if (listing.id, cause) not in self._refused:
            self._refused.add((listing.id, cause))
            _log.error("The engine %s of %s has %s than this gateway; it is not used", listing.id, listing.host, cause)
        return False
