"""Where a server's engines come from: started here, or found in the table where engines of other hosts are listed.

Owns how both are waited for and ended; knows no HTTP.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from multiflora_adapters.store import ArtifactStore
from multiflora_engine.process.supervisor import EngineFailed
from multiflora_engine.protocol.messages import Ready
from multiflora_platform.auth.keys import KeyStore
from multiflora_platform.base_models.group_making import make_far_fleet, make_fleet
from multiflora_platform.base_models.opening import ServedBase
from multiflora_platform.fleet.fleet import Fleet
from multiflora_platform.fleet.hosts.artifact_files import ArtifactFiles
from multiflora_platform.fleet.hosts.far_engine import FarEngine, FarReplica, address_of
from multiflora_platform.fleet.hosts.following import FollowedFleet
from multiflora_platform.fleet.hosts.line_keys import line_keys
from multiflora_platform.fleet.hosts.replica_table import Listing
from multiflora_platform.fleet.processes import start_all, stop_all, wait_all_ready
from multiflora_platform.observability.metrics import Metrics
from multiflora_platform.server.loading import LoadingDisplay
from multiflora_platform.settings import ConfigurationError, Settings
from multiflora_platform.storage.database import Database


class Engines(Protocol):
    """fleet: asked from the beginning on, whether engines are there or not."""

    fleet: Fleet

    async def start(self) -> None: ...

    async def wait_ready(self) -> Ready:
        """What they serve with. Raises EngineFailed when they never will."""

    def check(self) -> None:
        """Raises EngineFailed when all have died for good."""

    async def stop(self) -> None: ...


class OwnEngines:
    """Processes of this server's."""

    def __init__(self, settings: Settings, opened: ServedBase, metrics: Metrics, display: LoadingDisplay) -> None:
        """Raises ConfigurationError."""
        try:
            self.fleet = make_fleet(settings, opened, metrics, on_progress=display.update)
        except ValueError as error:
            raise ConfigurationError(f"--replicas {settings.replicas}: {error}") from None

    async def start(self) -> None:
        await start_all(self.fleet)

    async def wait_ready(self) -> Ready:
        return await wait_all_ready(self.fleet)

    def check(self) -> None:
        if self.fleet.failure is not None:
            raise EngineFailed(self.fleet.failure)

    async def stop(self) -> None:
        await stop_all(self.fleet)


class FarEngines:
    """Engines of other hosts: they come and go, and a gateway waits for the next."""

    def __init__(
        self,
        settings: Settings,
        opened: ServedBase,
        metrics: Metrics,
        database: Database,
        keys: KeyStore,
        artifacts: ArtifactStore,
    ) -> None:
        self.fleet = make_far_fleet(settings, opened, metrics)
        engine_keys, self._gateway_keys = line_keys(keys.secret.derive)
        self._artifacts = ArtifactFiles(artifacts)
        self._base_digest = opened.base.digest
        group = settings.group or opened.served.name
        self._followed = FollowedFleet(self.fleet, database, group, engine_keys.public, self._reach)
        # Of engines that tell what they have cached.
        self._catching_up: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        await self._followed.start()

    async def wait_ready(self) -> Ready:
        await self._followed.wait_ready()
        ready = self.fleet.ready
        assert ready is not None, "one was ready, and nothing has been waited for since"
        return ready

    def check(self) -> None:
        """Others may come."""

    async def stop(self) -> None:
        await self._followed.close()
        await asyncio.gather(*self._catching_up, return_exceptions=True)

    def _reach(self, listing: Listing) -> FarReplica:
        def on_ready() -> None:
            task = asyncio.create_task(self.fleet.catch_up(replica))
            self._catching_up.add(task)
            task.add_done_callback(self._catching_up.discard)

        engine = FarEngine(address_of(listing, self._gateway_keys), self._base_digest, on_ready)
        engine.client.artifact_part = self._artifacts.part
        replica = FarReplica(listing, engine)
        return replica
