"""The engines of one group on other hosts, and what a gateway needs to reach any of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from multiflora_adapters.store import ArtifactStore
from multiflora_platform.fleet.fleet import Fleet
from multiflora_platform.fleet.hosts.artifact_files import ArtifactFiles
from multiflora_platform.fleet.hosts.far_engine import FarEngine, FarReplica, address_of
from multiflora_platform.fleet.hosts.following import FollowedFleet
from multiflora_platform.fleet.hosts.line_keys import LineKeys, line_keys
from multiflora_platform.fleet.hosts.replica_table import Listing
from multiflora_platform.storage.database import Database


@dataclass(frozen=True)
class FarLines:
    """database: has the table of engines. keys: of the secret that all hosts share. artifacts: for hosts that lack
    them. timeout: seconds of silence after which a line is cut."""

    database: Database
    keys: LineKeys
    artifacts: ArtifactFiles
    timeout: float

    @classmethod
    def of(
        cls, database: Database, derive: Callable[[str, str], str], artifacts: ArtifactStore, timeout: float
    ) -> FarLines:
        """derive: as line_keys takes it."""
        return cls(database, line_keys(derive), ArtifactFiles(artifacts), timeout)


class FarFleet:
    """Fills a fleet of none with the engines of a group as they come and go. `start` it, and `close` it."""

    def __init__(self, fleet: Fleet, group: str, base_digest: str, lines: FarLines) -> None:
        self._fleet = fleet
        self._base_digest = base_digest
        self._lines = lines
        self._followed = FollowedFleet(fleet, lines.database, group, lines.keys.engines.public, self._reach)
        # Of engines that tell what they have cached.
        self._catching_up: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        await self._followed.start()

    async def wait_ready(self) -> None:
        """Until an engine serves."""
        await self._followed.wait_ready()

    async def close(self) -> None:
        await self._followed.close()
        await asyncio.gather(*self._catching_up, return_exceptions=True)

    def _reach(self, listing: Listing) -> FarReplica:
        def on_ready() -> None:
            task = asyncio.create_task(self._fleet.catch_up(replica))
            self._catching_up.add(task)
            task.add_done_callback(self._catching_up.discard)

        address = address_of(listing, self._lines.keys.gateways, self._lines.timeout)
        engine = FarEngine(address, self._base_digest, on_ready)
        engine.client.artifact_part = self._lines.artifacts.part
        replica = FarReplica(listing, engine)
        return replica
