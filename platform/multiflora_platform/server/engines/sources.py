"""Where a server's engines come from: started here, or found in the table where engines of other hosts are listed.

Owns how both are waited for and ended; knows no HTTP.
"""

from __future__ import annotations

from typing import Protocol

from multiflora_engine.process.supervisor import EngineFailed
from multiflora_engine.protocol.messages import Ready
from multiflora_platform.base_models.group_making import make_far_fleet, make_fleet
from multiflora_platform.base_models.opening import ServedBase
from multiflora_platform.fleet.fleet import Fleet
from multiflora_platform.fleet.hosts.far_fleet import FarFleet, FarLines
from multiflora_platform.fleet.processes import start_all, stop_all, wait_all_ready
from multiflora_platform.observability.metrics import Metrics
from multiflora_platform.server.loading import LoadingDisplay
from multiflora_platform.settings import ConfigurationError, Settings


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

    def __init__(self, settings: Settings, opened: ServedBase, metrics: Metrics, lines: FarLines) -> None:
        self.fleet = make_far_fleet(settings, opened, metrics)
        self._engines = FarFleet(self.fleet, settings.group or opened.served.name, opened.base.digest, lines)

    async def start(self) -> None:
        await self._engines.start()

    async def wait_ready(self) -> Ready:
        await self._engines.wait_ready()
        ready = self.fleet.ready
        assert ready is not None, "one was ready, and nothing has been waited for since"
        return ready

    def check(self) -> None:
        """Others may come."""

    async def stop(self) -> None:
        await self._engines.close()
