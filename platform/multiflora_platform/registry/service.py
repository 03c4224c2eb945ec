"""The registry: one object through which everything else asks about adapters and changes them.

Requests ask `resolve` and `served`, which look at an in-memory snapshot; changes go through one database transaction
each, and the snapshot is swapped after the commit and before the answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec

from multiflora_adapters.base_model import BaseModel
from multiflora_adapters.store import ArtifactStore
from multiflora_platform.registry import aliases, catalog, migrate, versions
from multiflora_platform.registry.aliases import Precondition
from multiflora_platform.registry.artifacts import Artifacts
from multiflora_platform.registry.catalog import AdapterFields
from multiflora_platform.registry.database import Change, Database
from multiflora_platform.registry.disk import full_disk_reported
from multiflora_platform.registry.engine_link import EngineLink
from multiflora_platform.registry.errors import AdapterExists, AdapterNotFound, Unavailable, VersionNotFound
from multiflora_platform.registry.events import Feed
from multiflora_platform.registry.idempotency import Outcome, Repeatable
from multiflora_platform.registry.ingest import Ingest, Obtain, Scratch, Submission, moved_from
from multiflora_platform.registry.local_paths import LocalPaths
from multiflora_platform.registry.probing import Prober
from multiflora_platform.registry.recovery import FolderLock, recover
from multiflora_platform.registry.snapshot import AdapterEntry, Resolved, ServedAdapter, Snapshot
from multiflora_platform.registry.sources import Sources
from multiflora_platform.registry.uploads import Upload

_log = logging.getLogger(__name__)


class Registry:
    """Make one with `await Registry.open(...)`; end it with `await registry.close()`."""

    def __init__(
        self,
        database: Database,
        store: ArtifactStore,
        base: BaseModel,
        max_rank: int,
        scratch: Scratch,
        sources: Sources,
        reserved_names: Collection[str],
    ) -> None:
        self.database = database
        self.feed = Feed(database)
        self._base = base
        self._sources = sources
        self._reserved = frozenset(reserved_names)
        self._snapshot = Snapshot({})
        self._engine: EngineLink | None = None
        self._scratch = scratch
        self._artifacts = Artifacts(store, database, self._forget)
        self._ingest = Ingest(database, self._artifacts, scratch, base, max_rank, self._touch)
        self._paths = LocalPaths(self, sources, scratch, base.digest)
        self._lock = FolderLock(scratch.root / ".lock")

    @classmethod
    async def open(
        cls,
        database_url: str,
        store: ArtifactStore,
        base: BaseModel,
        max_rank: int,
        prober: Prober | None = None,
        *,
        scratch: Path,
        source_roots: Sequence[Path] = (),
        max_upload_bytes: int = 4 << 30,
        reserved_names: Collection[str] = (),
    ) -> Registry:
        """Bring the schema up to date (SQLite), clean up after a crash, read everything.

        scratch: our folder for files on their way in, emptied at each start. source_roots: where file:// may read.
        reserved_names: the base model's names, which no adapter may take. Raises DatabaseOutdated, DatabaseUnusable.
        """
        await asyncio.to_thread(migrate.prepare, database_url)
        registry = cls(
            Database.open(database_url),
            store,
            base,
            max_rank,
            Scratch(scratch),
            Sources(tuple(source_roots), max_upload_bytes),
            reserved_names,
        )
        registry._ingest.prober = prober
        if registry._lock.is_ours:
            await recover(registry.database, registry._scratch, registry._artifacts)
        await registry._reload()
        return registry

    def attach(self, engine: EngineLink) -> None:
        """An engine is there: commands, probes and replicas go to it."""
        self._engine = engine
        self._ingest.prober = engine.probe

    async def close(self) -> None:
        self.stop_feeds()
        await self._ingest.close()
        await self._artifacts.close()
        await self.database.close()
        self._lock.close()

    def stop_feeds(self) -> None:
        """End everybody's live feed of events, so that a server that drains is not kept open by them."""
        self.feed.stop()

    # What names mean: from memory, without an await.

    def resolve(self, model: str, user: str | None) -> Resolved | None:
        """`name`, `name@alias` or `name@3`. None: nothing that can be served has this name; never the base model."""
        return self._snapshot.resolve(model, user)

    def served(self) -> list[ServedAdapter]:
        """Adapters that `model=name` reaches, by name."""
        return self._snapshot.served

    def lease(self, digest: str) -> AbstractContextManager[None]:
        """Hold while a request runs: the artifact is not removed meanwhile, even if its adapter is deleted."""
        return self._artifacts.lease(digest)

    @property
    def snapshot(self) -> Snapshot:
        return self._snapshot

    def adapter(self, name: str) -> AdapterEntry:
        """Raises AdapterNotFound."""
        entry = self._snapshot.adapters.get(name)
        if entry is None:
            raise AdapterNotFound(f"There is no adapter named {name[:80]!r}.")
        return entry

    # Adapters.

    async def create(self, name: str, fields: AdapterFields, actor: str, owner: str | None = None) -> AdapterEntry:
        """Raises InvalidRequest, AdapterExists. owner: the tenant that may change it besides admins."""
        if name in self._reserved:
            raise AdapterExists(f"{name!r} is the base model's name; choose another.", pointer="/name")

        async def work(change: Change) -> None:
            await catalog.create(change, name, fields, owner)
            await self._touch(change, name)

        await self.database.write(actor, work)
        return self.adapter(name)

    async def amend(self, name: str, fields: AdapterFields, actor: str) -> AdapterEntry:
        async def work(change: Change) -> None:
            await catalog.amend(change, name, fields)
            await self._touch(change, name)

        await self.database.write(actor, work)
        return self.adapter(name)

    async def remove(self, name: str, actor: str) -> None:
        """The name is a 404 and free again; artifacts that nobody else names go when their last request ends."""

        async def work(change: Change) -> list[str]:
            digests = await catalog.remove(change, name)
            change.after_commit.append(lambda: self._swap(self._snapshot.without(name)))
            return digests

        for digest in await self.database.write(actor, work):
            self._artifacts.collect_soon(digest)

    # Versions.

    async def add_source(
        self, name: str, source: str, actor: str, *, promote: bool = False, key: str | None = None
    ) -> Outcome:
        """source: file:// or hf://. Raises VersionRejected and what Sources.fetch raises."""

        async def obtain(folder: Path) -> str:
            return await asyncio.to_thread(self._sources.fetch, source, folder)

        request = Repeatable(key, _hash(source, promote))
        return await self.submit(name, obtain, actor, promote, request)

    async def add_upload(
        self,
        name: str,
        content_type: str,
        length: str | None,
        chunks: AsyncIterator[bytes],
        actor: str,
        *,
        promote: bool = False,
        key: str | None = None,
    ) -> Outcome:
        """A body as it comes from the network (uploads.py). Raises VersionRejected and what Upload.receive raises."""
        self.adapter(name)
        with full_disk_reported():
            async with self._scratch.folder() as received:
                fingerprint = await Upload(received, self._sources.max_bytes).receive(content_type, length, chunks)
                request = Repeatable(key, _hash(fingerprint, promote))
                return await self.submit(name, moved_from(received, "upload"), actor, promote, request)

    async def submit(self, name: str, obtain: Obtain, actor: str, promote: bool, request: Repeatable) -> Outcome:
        """The version that `obtain` provides; raises VersionRejected."""
        submission = Submission(self.adapter(name).id, name, obtain, actor, promote, request)
        with full_disk_reported():
            return (await self._ingest.submit(submission)).unwrapped()

    async def version(self, name: str, number: int) -> dict[str, Any]:
        entry = self.adapter(name)
        async with self.database.read() as session:
            row = await versions.require(session, entry.id, name, number)
            return (await versions.views(session, name, [row]))[0]

    async def versions(self, name: str, before: int, limit: int) -> list[dict[str, Any]]:
        """Newest first, numbers below `before`."""
        entry = self.adapter(name)
        async with self.database.read() as session:
            return await versions.views(session, name, await versions.page(session, entry.id, before, limit))

    async def report(self, name: str, number: int) -> dict[str, Any]:
        entry = self.adapter(name)
        async with self.database.read() as session:
            row = await versions.require(session, entry.id, name, number)
            rows = await versions.report(session, row.id)
        return {"adapter": name, "version": number, "state": row.state, "rows": rows}

    # Aliases.

    async def put_alias(
        self, name: str, alias: str, target: Mapping[str, Any], precondition: Precondition, actor: str
    ) -> bool:
        """True when the alias was made by this."""

        async def work(change: Change) -> bool:
            created = await aliases.put(change, name, alias, target, precondition)
            await self._touch(change, name)
            return created

        return await self.database.write(actor, work)

    async def delete_alias(self, name: str, alias: str, precondition: Precondition, actor: str) -> None:
        async def work(change: Change) -> None:
            await aliases.remove(change, name, alias, precondition)
            await self._touch(change, name)

        await self.database.write(actor, work)

    async def roll_back(self, name: str, alias: str, precondition: Precondition, actor: str) -> None:
        async def work(change: Change) -> None:
            await aliases.roll_back(change, name, alias, precondition)
            await self._touch(change, name)

        await self.database.write(actor, work)

    # Folders on this machine (local_paths.py).

    async def register_path(self, name: str, path: str, actor: str, load_inplace: bool = False) -> Outcome:
        """vLLM's call: adapter, version and default in one. load_inplace: add to an adapter that exists, and promote.

        Raises AdapterExists (without load_inplace), SourceRefused (outside --allow-source-root), SourceNotFound,
        SourceIncomplete, VersionRejected; an adapter that this call made is taken back then.
        """
        return await self._paths.register(name, path, actor, load_inplace)

    async def seed(
        self, name: str, path: Path, *, description: str = "", tags: Sequence[str] = (), demo_prompt: str | None = None
    ) -> None:
        """`--lora-modules` and the bundled demo, at every start; the path may lie anywhere. Raises as register_path."""
        await self._paths.seed(name, path, AdapterFields(description, tags, demo_prompt))

    # The engine.

    async def command(self, action: str, name: str, number: int | None, actor: str) -> dict[str, Any]:
        """action: load, unload, pin or unpin; of a version, or of the one that `model=name` means."""
        entry = self.adapter(name)
        resolved = entry.resolve(str(number) if number else "default", None)
        if resolved is None:
            wanted = f"version {number}" if number else "default version"
            raise VersionNotFound(f"Adapter {name!r} has no {wanted} that can be served.")
        if self._engine is None:
            raise Unavailable("No engine is running.")
        with self.lease(resolved.digest):
            await self._engine.command(action, resolved.digest)

        async def work(change: Change) -> None:
            target = f"{name}@{resolved.version}"
            change.record(f"adapter.{action}", target, adapter=name, version=resolved.version, digest=resolved.digest)

        await self.database.write(actor, work)
        return {"adapter": name, "version": resolved.version, "digest": resolved.digest, "action": action}

    async def replicas(self) -> list[dict[str, Any]]:
        return await self._engine.replicas(self._snapshot.digests) if self._engine else []

    # Inside.

    async def _touch(self, change: Change, name: str) -> None:
        """The adapter's entry as this transaction leaves it becomes visible with the commit."""
        await change.session.flush()
        entries = await catalog.load_entries(change.session, self._base.digest, name)
        change.after_commit.append(lambda: self._swap(self._snapshot.replaced(*entries)))

    def _swap(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    async def _reload(self) -> None:
        async with self.database.read() as session:
            entries = await catalog.load_entries(session, self._base.digest)
        self._swap(Snapshot({entry.name: entry for entry in entries}))

    async def _forget(self, digest: str) -> None:
        try:
            if self._engine is not None:
                await self._engine.forget(digest)
        except Exception as error:
            _log.warning("the engine could not forget %s: %s", digest, error)


def _hash(*parts: object) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
