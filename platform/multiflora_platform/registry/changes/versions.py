"""Transactions on a version that is made: its details, deletion, restoring, purging; and looking at versions.

The rules are in rows/versions.py and rows/deleted_versions.py; versions are made by intake/.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

from multiflora_platform.registry.artifacts import model_card as card
from multiflora_platform.registry.artifacts.collector import Artifacts
from multiflora_platform.registry.artifacts.version_archive import archive
from multiflora_platform.registry.errors import VersionNotFound
from multiflora_platform.registry.rows import deleted_versions, version_queries, versions
from multiflora_platform.registry.rows.adapters import require
from multiflora_platform.registry.rows.version_queries import VersionQuery
from multiflora_platform.registry.schemas.version_metadata import VersionPatch
from multiflora_platform.registry.snapshot.store import SnapshotStore
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.tables import AdapterRow, VersionRow
from multiflora_platform.web.etags import UNCONDITIONAL, Precondition, tagged


class VersionChanges:
    """Numbers are never given twice, whatever happens to a version."""

    def __init__(self, database: Database, snapshots: SnapshotStore, artifacts: Artifacts) -> None:
        self._database = database
        self._snapshots = snapshots
        self._artifacts = artifacts

    async def view(self, name: str, number: int) -> dict[str, Any]:
        entry = self._snapshots.adapter(name)
        async with self._database.read() as session:
            row = await version_queries.require(session, entry.id, name, number)
            return await version_queries.view(session, row, name)

    async def search(
        self, wanted: VersionQuery, name: str | None, before: int | None, limit: int
    ) -> tuple[list[dict[str, Any]], int | None]:
        """Newest first, and where the next page begins. name: within one adapter."""
        if name is not None:
            wanted = replace(wanted, adapter_ids=[self._snapshots.adapter(name).id])
        async with self._database.read() as session:
            found = await version_queries.search(session, wanted, before, limit + 1)
            items = await version_queries.views(session, found[:limit])
        last = found[limit - 1][0] if len(found) > limit else None
        return items, last.id if last else None

    async def report(self, name: str, number: int) -> dict[str, Any]:
        entry = self._snapshots.adapter(name)
        async with self._database.read() as session:
            row = await version_queries.require(session, entry.id, name, number)
            rows = await version_queries.report(session, row.id)
        return tagged({"adapter": name, "version": number, "state": row.state, "rows": rows, "evals": row.evals})

    async def card(self, name: str, number: int) -> dict[str, Any]:
        """Raises VersionNotFound when it came without a README.md."""
        entry = self._snapshots.adapter(name)
        async with self._database.read() as session:
            row = await version_queries.require(session, entry.id, name, number)
        if row.card is None:
            raise VersionNotFound(f"Version {number} of {name!r} has no model card: it came without a README.md.")
        return tagged({"adapter": name, "version": number, **card.render(row.card)})

    async def archive(self, name: str, number: int) -> Iterator[bytes]:
        """Its files, as the upload of another version takes them. Raises VersionNotFound where it has none."""
        entry = self._snapshots.adapter(name)
        async with self._database.read() as session:
            row = await version_queries.require(session, entry.id, name, number)
        if row.digest is None:
            raise VersionNotFound(f"Version {number} of {name!r} has no files.")
        with self._artifacts.lease(row.digest):
            try:
                folder = await asyncio.to_thread(self._artifacts.store.brought, row.digest)
                return archive(folder, row.card)
            except FileNotFoundError as error:
                raise VersionNotFound(f"The files of version {number} of {name!r} are gone.") from error

    async def amend(
        self, name: str, number: int, patch: VersionPatch, precondition: Precondition, actor: str
    ) -> dict[str, Any]:
        async def work(change: Change, adapter: AdapterRow, version: VersionRow) -> None:
            await versions.amend(change, adapter, version, patch)

        return await self._change(name, number, precondition, actor, work)

    async def delete(self, name: str, number: int, precondition: Precondition, actor: str) -> dict[str, Any]:
        """Archived: it answers no new request, running ones finish, and it can be restored. Raises VersionInUse."""
        return await self._change(name, number, precondition, actor, deleted_versions.delete)

    async def restore(self, name: str, number: int, precondition: Precondition, actor: str) -> dict[str, Any]:
        """Raises NotDeleted."""
        return await self._change(name, number, precondition, actor, deleted_versions.restore)

    async def purge(self, name: str, number: int, precondition: Precondition, actor: str) -> None:
        """For good; its artifact goes once no other version names it and its last request ended. Raises NotDeleted."""

        async def work(change: Change) -> str | None:
            adapter, version = await _found(change, name, number, precondition)
            digest = version.digest  # the purge clears it
            await deleted_versions.purge(change, adapter, version)
            return digest

        digest = await self._database.write(actor, work)
        if digest is not None:
            self._artifacts.collect_soon(digest)

    async def _change(
        self,
        name: str,
        number: int,
        precondition: Precondition,
        actor: str,
        step: Callable[[Change, AdapterRow, VersionRow], Awaitable[None]],
    ) -> dict[str, Any]:
        async def work(change: Change) -> dict[str, Any]:
            adapter, version = await _found(change, name, number, precondition)
            await step(change, adapter, version)
            await self._snapshots.touch(change, name)
            return await version_queries.view(change.session, version, name)

        return await self._database.write(actor, work)


async def _found(change: Change, name: str, number: int, precondition: Precondition) -> tuple[AdapterRow, VersionRow]:
    """Raises AdapterNotFound, VersionNotFound, and what the precondition does."""
    adapter = await require(change.session, name)
    version = await version_queries.require(change.session, adapter.id, name, number)
    if precondition != UNCONDITIONAL:
        shown = await version_queries.view(change.session, version, name)
        precondition.check(f"Version {number} of {name!r}", shown["etag"])
    return adapter, version
