"""Transactions that make, change and delete an adapter: one for each request, visible to others with its commit.

The rules are in rows/adapters.py.
"""

from __future__ import annotations

from collections.abc import Collection

from multiflora_platform.registry.artifacts.collector import Artifacts
from multiflora_platform.registry.artifacts.scratch import Scratch
from multiflora_platform.registry.changes.jobs import cancel_all
from multiflora_platform.registry.errors import AdapterExists
from multiflora_platform.registry.jobs.runner import JobRunner
from multiflora_platform.registry.rows import adapters as catalog
from multiflora_platform.registry.schemas.fields import AdapterFields
from multiflora_platform.registry.snapshot.listing import adapter_view
from multiflora_platform.registry.snapshot.snapshot import AdapterEntry
from multiflora_platform.registry.snapshot.store import SnapshotStore
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.web.etags import UNCONDITIONAL, Precondition


class AdapterChanges:
    """reserved_names: the base models', which no adapter may take, as they change."""

    def __init__(
        self,
        database: Database,
        snapshots: SnapshotStore,
        artifacts: Artifacts,
        runner: JobRunner,
        scratch: Scratch,
        reserved_names: Collection[str],
    ) -> None:
        self._database = database
        self._snapshots = snapshots
        self._artifacts = artifacts
        self._runner = runner
        self._scratch = scratch
        self._reserved = reserved_names

    async def create(
        self,
        name: str,
        fields: AdapterFields,
        actor: str,
        owner: str | None = None,
        precondition: Precondition = UNCONDITIONAL,
    ) -> AdapterEntry:
        """Raises InvalidRequest, AdapterExists. owner: the tenant that may change it besides admins."""
        if name in self._reserved:
            raise AdapterExists(f"{name!r} is the base model's name; choose another.", pointer="/name")

        async def work(change: Change) -> None:
            await self._check(change, name, precondition)
            await catalog.create(change, name, fields, owner)
            await self._snapshots.touch(change, name)

        await self._database.write(actor, work)
        return self._snapshots.adapter(name)

    async def amend(
        self, name: str, fields: AdapterFields, actor: str, precondition: Precondition = UNCONDITIONAL
    ) -> AdapterEntry:
        async def work(change: Change) -> None:
            await self._check(change, name, precondition)
            await catalog.amend(change, name, fields)
            await self._snapshots.touch(change, name)

        await self._database.write(actor, work)
        return self._snapshots.adapter(name)

    async def remove(self, name: str, actor: str, precondition: Precondition = UNCONDITIONAL) -> None:
        """The name is a 404 and free again; artifacts that no other version names go when their last request ends."""

        async def work(change: Change) -> tuple[list[str], list[str]]:
            await self._check(change, name, precondition)
            # In the same transaction: a job must not finish a version of an adapter that is gone.
            ended = await cancel_all(change, await catalog.require(change.session, name))
            digests = await catalog.remove(change, name)
            self._snapshots.drop(change, name)
            return digests, ended

        digests, ended = await self._database.write(actor, work)
        # After the commit: had it failed, the jobs would go on and need their folders.
        for job_id in ended:
            self._runner.stopped(job_id)
            await self._scratch.remove(job_id)
        for digest in digests:
            self._artifacts.collect_soon(digest)

    async def _check(self, change: Change, name: str, precondition: Precondition) -> None:
        """Against the adapter as the database has it, which another process may have changed."""
        if precondition != UNCONDITIONAL:
            entries = await self._snapshots.load(change.session, name)
            precondition.check(f"Adapter {name!r}", *(adapter_view(entry)["etag"] for entry in entries))
