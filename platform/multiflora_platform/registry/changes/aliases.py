"""Transactions that move, delete, protect and roll back an alias: one for each request, visible with its commit.

What an alias may point to and how it moves is in rows/aliases.py; new versions are warmed up before the transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multiflora_platform.registry.rows import aliases
from multiflora_platform.registry.rows.aliases import MovePrecondition
from multiflora_platform.registry.schemas.answers import AliasMoveView
from multiflora_platform.registry.serving.warm_up import WarmUp
from multiflora_platform.registry.snapshot.store import SnapshotStore
from multiflora_platform.storage.database import Change, Database


class AliasChanges:
    """One method for each request about an alias."""

    def __init__(self, database: Database, snapshots: SnapshotStore, warm_up: WarmUp) -> None:
        self._database = database
        self._snapshots = snapshots
        self._warm_up = warm_up

    async def put(
        self, name: str, alias: str, target: Mapping[str, Any], precondition: MovePrecondition, actor: str
    ) -> bool:
        """True when the alias was made by this. New versions are warm before they get traffic.

        Raises CommandFailed when the engine cannot load one.
        """
        await self._warm_up.before_move(name, alias, aliases.shares_of(target))

        async def work(change: Change) -> bool:
            created = await aliases.put(change, name, alias, target, precondition)
            await self._snapshots.touch(change, name)
            return created

        return await self._database.write(actor, work)

    async def protect(self, name: str, alias: str, precondition: MovePrecondition, actor: str) -> None:
        """From now on only admins move or delete it."""
        await self._set_protected(name, alias, True, precondition, actor)

    async def unprotect(self, name: str, alias: str, precondition: MovePrecondition, actor: str) -> None:
        await self._set_protected(name, alias, False, precondition, actor)

    async def history(self, name: str, alias: str, before: int, limit: int) -> list[AliasMoveView]:
        """Moves with ids below `before`, newest first; also of an alias that was deleted."""
        entry = self._snapshots.adapter(name)
        async with self._database.read() as session:
            moves = await aliases.history(session, entry.id, alias, before, limit)
        return [
            AliasMoveView(id=move.id, target=move.target, actor=move.actor, at=move.at.isoformat()) for move in moves
        ]

    async def _set_protected(
        self, name: str, alias: str, protected: bool, precondition: MovePrecondition, actor: str
    ) -> None:
        async def work(change: Change) -> None:
            await aliases.set_protected(change, name, alias, protected, precondition)
            await self._snapshots.touch(change, name)

        await self._database.write(actor, work)

    async def remove(self, name: str, alias: str, precondition: MovePrecondition, actor: str) -> None:
        async def work(change: Change) -> None:
            await aliases.remove(change, name, alias, precondition)
            await self._snapshots.touch(change, name)

        await self._database.write(actor, work)

    async def roll_back(self, name: str, alias: str, precondition: MovePrecondition, actor: str) -> None:
        async def work(change: Change) -> None:
            await aliases.roll_back(change, name, alias, precondition)
            await self._snapshots.touch(change, name)

        await self._database.write(actor, work)
