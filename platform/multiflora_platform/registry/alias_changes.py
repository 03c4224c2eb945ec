"""Moving, deleting and rolling back aliases: one transaction each, seen by requests with its commit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multiflora_platform.registry import aliases
from multiflora_platform.registry.aliases import Precondition
from multiflora_platform.registry.database import Change, Database
from multiflora_platform.registry.live import Live


class AliasChanges:
    """The rules are in aliases.py."""

    def __init__(self, database: Database, live: Live) -> None:
        self._database = database
        self._live = live

    async def put(
        self, name: str, alias: str, target: Mapping[str, Any], precondition: Precondition, actor: str
    ) -> bool:
        """True when the alias was made by this."""

        async def work(change: Change) -> bool:
            created = await aliases.put(change, name, alias, target, precondition)
            await self._live.touch(change, name)
            return created

        return await self._database.write(actor, work)

    async def remove(self, name: str, alias: str, precondition: Precondition, actor: str) -> None:
        async def work(change: Change) -> None:
            await aliases.remove(change, name, alias, precondition)
            await self._live.touch(change, name)

        await self._database.write(actor, work)

    async def roll_back(self, name: str, alias: str, precondition: Precondition, actor: str) -> None:
        async def work(change: Change) -> None:
            await aliases.roll_back(change, name, alias, precondition)
            await self._live.touch(change, name)

        await self._database.write(actor, work)
