"""Adapters from a folder or an address in one call: vLLM's load_lora_adapter, --lora-modules, the bundled demo.

Knows when such a call makes an adapter, adds to one, or changes nothing; the steps themselves are the registry's.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from multiflora_adapters.manifest import ARTIFACT_FILES
from multiflora_platform.registry.artifacts.scratch import Scratch
from multiflora_platform.registry.changes.adapters import AdapterChanges
from multiflora_platform.registry.errors import AdapterExists
from multiflora_platform.registry.intake.submissions import VersionIntake, VersionRequest
from multiflora_platform.registry.rows import adapters as catalog
from multiflora_platform.registry.rows.idempotency import StoredAnswer
from multiflora_platform.registry.schemas.fields import AdapterFields
from multiflora_platform.registry.snapshot.store import SnapshotStore
from multiflora_platform.registry.sources.resolver import Sources, adapter_source
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.web.names import check_name
from multiflora_platform.web.problems import Problem

_SYSTEM = "system"


class LocalPaths:
    """sources: with the roots that clients may name; the operator's own paths may lie anywhere."""

    def __init__(
        self,
        database: Database,
        snapshots: SnapshotStore,
        adapters: AdapterChanges,
        intake: VersionIntake,
        sources: Sources,
        scratch: Scratch,
        base_digest: str,
    ) -> None:
        self._database = database
        self._snapshots = snapshots
        self._adapters = adapters
        self._intake = intake
        self._sources = sources
        self._anywhere = replace(sources, roots=None)
        self._scratch = scratch
        self._base_digest = base_digest

    async def register(self, name: str, given: str, actor: str, load_inplace: bool = False) -> StoredAnswer:
        """vLLM's call: adapter, version and default in one. load_inplace: add to an adapter that exists, and promote.

        given: a path, a hub's id, or an address; one that comes over the network is fetched by a job, and waited for.
        Raises AdapterExists (without load_inplace), SourceRefused (outside --allow-source-root), SourceNotFound,
        SourceIncomplete, SourceUnreachable, VersionRejected; an adapter that this call made is taken back then.
        """
        if self._exists(name) and not load_inplace:
            raise AdapterExists(f"The lora adapter {name!r} has already been loaded.")
        source = await asyncio.to_thread(adapter_source, given)
        request = VersionRequest(name, actor, promote=True, wait=math.inf)
        if self._is_remote(source):
            check_name(name)
            # Before anything is made: an address that means nothing leaves no adapter, no version and no event.
            await asyncio.to_thread(self._sources.pin, source)
            return await self._made(request, AdapterFields(), lambda: self._intake.add_source(request, source))
        async with self._scratch.folder() as folder:
            recorded = await asyncio.to_thread(_fetch, self._sources, source, folder)
            return await self._made(
                request, AdapterFields(), lambda: self._intake.add_folder(request, folder, recorded)
            )

    async def seed(self, name: str, given: str | Path, fields: AdapterFields) -> None:
        """At every start. given: a path, which may lie anywhere, or an address (hf://, s3://, file://). Raises as
        register.

        Content that is as it was at the last start changes nothing, also where people have moved the alias since;
        other content becomes a promoted version.
        """
        source = str(given)
        pinned: str | None = None
        if self._is_remote(source):
            pinned = await asyncio.to_thread(self._sources.pin, source)
            # What an address is pinned to never changes, so an earlier start has fetched it.
            if await self._is_seeded(name, pinned):
                return
        async with self._scratch.folder() as folder:
            recorded = await asyncio.to_thread(_fetch, self._anywhere, source, folder)
            content = await asyncio.to_thread(_content, folder) if pinned is None else pinned
            if await self._is_seeded(name, content):
                return
            request = VersionRequest(name, _SYSTEM, promote=True)

            async def add() -> StoredAnswer:
                return await self._intake.add_folder(request, folder, recorded)

            try:
                await self._made(request, fields, add)
            except AdapterExists:  # another server, which starts at the same time, has just made it
                await self._snapshots.load_all()
                await add()

        async def work(change: Change) -> None:
            (await catalog.require(change.session, name)).seed = self._mark(content)

        await self._database.write(_SYSTEM, work)

    def _is_remote(self, source: str) -> bool:
        return "://" in source and self._sources.is_remote(source)

    async def _made(
        self, request: VersionRequest, fields: AdapterFields, add: Callable[[], Awaitable[StoredAnswer]]
    ) -> StoredAnswer:
        """The version that `add` makes, and its adapter where there is none."""
        is_new = not self._exists(request.adapter)
        if is_new:
            await self._adapters.create(request.adapter, fields, request.actor)
        try:
            return await add()
        except (Problem, OSError):
            # One call for the client, so nothing of it may stay: the next try would find the name taken.
            if is_new:
                await self._adapters.remove(request.adapter, request.actor)
            raise

    def _exists(self, name: str) -> bool:
        return name in self._snapshots.snapshot.adapters

    async def _is_seeded(self, name: str, content: str) -> bool:
        """Compared with the last start, not with the alias: an operator's rollback must survive a restart."""
        if not self._exists(name):
            return False
        async with self._database.read() as session:
            return (await catalog.require(session, name)).seed == self._mark(content)

    def _mark(self, content: str) -> str:
        return f"{content}:{self._base_digest}"


def _fetch(sources: Sources, source: str, folder: Path) -> str:
    """source: a path or an address; returns it as it is recorded. Blocks: call in a thread."""
    if "://" not in source:
        return sources.copy(Path(source), folder)
    if not sources.is_remote(source):
        return sources.fetch_local(source, folder)
    # Progress is for jobs; a start waits for its adapters.
    return sources.fetch_remote(source, folder, lambda done, total: None)


def _content(folder: Path) -> str:
    """SHA-256 over an adapter's files."""
    hasher = hashlib.sha256()
    for name in ARTIFACT_FILES:
        with (folder / name).open("rb") as reader:
            hasher.update(hashlib.file_digest(reader, "sha256").digest())
    return hasher.hexdigest()
