"""The engines of one more base model where others start and end them."""

from __future__ import annotations

from multiflora_platform.fleet.hosts.far_fleet import FarFleet


class FarLife:
    """An EnginesLife: its group's engines are followed from `wake` to `end`."""

    asleep = False

    def __init__(self, engines: FarFleet) -> None:
        self._engines = engines

    async def wake(self) -> None:
        await self._engines.start()

    async def tend(self) -> None:
        """They are their hosts'."""

    async def end(self) -> None:
        await self._engines.close()
