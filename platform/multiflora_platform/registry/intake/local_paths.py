"""Adapters from folders on this machine in one call: vLLM's load_lora_adapter, --lora-modules, the bundled demo.

Knows when such a call makes an adapter, adds to one, or changes nothing; the steps themselves are the registry's.
"""

from __future__ import annotations

import asyncio
import hashlib
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
from multiflora_platform.registry.sources.resolver import Sources
from multiflora_platform.storage.database import Change, Database
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
        self._anywhere = Sources(None, sources.max_bytes)
        self._scratch = scratch
        self._base_digest = base_digest

    async def register(self, name: str, path: str, actor: str, load_inplace: bool = False) -> StoredAnswer:
        """vLLM's call: adapter, version and default in one. load_inplace: add to an adapter that exists, and promote.

        Raises AdapterExists (without load_inplace), SourceRefused (outside --allow-source-root), SourceNotFound,
        SourceIncomplete, VersionRejected; an adapter that this call made is taken back then.
        """
        if self._exists(name) and not load_inplace:
            raise AdapterExists(f"The lora adapter {name!r} has already been loaded.")
        async with self._scratch.folder() as folder:
            source = await asyncio.to_thread(self._sources.copy, Path(path), folder)
            return await self._add(name, folder, source, actor, AdapterFields())

    async def seed(self, name: str, given: str | Path, fields: AdapterFields) -> None:
        """At every start. given: a path, which may lie anywhere, or an address (hf://, s3://, file://). Raises as
        register, and SourceUnreachable.

        Content that is as it was at the last start changes nothing, also where people have moved the alias since;
        other content becomes a promoted version.
        """
        async with self._scratch.folder() as folder:
            source = await asyncio.to_thread(self._fetch, str(given), folder)
            mark = f"{await asyncio.to_thread(_content, folder)}:{self._base_digest}"
            # Compared with the last start, not with the alias: an operator's rollback must survive a restart.
            if self._exists(name) and await self._mark(name) == mark:
                return
            await self._add(name, folder, source, _SYSTEM, fields)

        async def work(change: Change) -> None:
            (await catalog.require(change.session, name)).seed = mark

        await self._database.write(_SYSTEM, work)

    def _fetch(self, given: str, folder: Path) -> str:
        if "://" not in given:
            return self._anywhere.copy(Path(given), folder)
        if not self._anywhere.is_remote(given):
            return self._anywhere.fetch_local(given, folder)
        # Progress is for jobs; a start waits for its adapters.
        return self._sources.fetch_remote(given, folder, lambda done, total: None)

    async def _add(self, name: str, folder: Path, source: str, actor: str, fields: AdapterFields) -> StoredAnswer:
        is_new = not self._exists(name)
        if is_new:
            await self._adapters.create(name, fields, actor)
        try:
            return await self._intake.add_folder(VersionRequest(name, actor, promote=True), folder, source)
        except (Problem, OSError):
            # One call for the client, so nothing of it may stay: the next try would find the name taken.
            if is_new:
                await self._adapters.remove(name, actor)
            raise

    def _exists(self, name: str) -> bool:
        return name in self._snapshots.snapshot.adapters

    async def _mark(self, name: str) -> str | None:
        async with self._database.read() as session:
            return (await catalog.require(session, name)).seed


def _content(folder: Path) -> str:
    """SHA-256 over an adapter's files."""
    hasher = hashlib.sha256()
    for name in ARTIFACT_FILES:
        with (folder / name).open("rb") as reader:
            hasher.update(hashlib.file_digest(reader, "sha256").digest())
    return hasher.hexdigest()
