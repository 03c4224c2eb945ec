"""Where new versions come in: an upload's body, or a source's address; and what is known of versions that came."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from multiflora_platform.registry import versions
from multiflora_platform.registry.database import Database
from multiflora_platform.registry.disk import full_disk_reported
from multiflora_platform.registry.idempotency import Outcome, Repeatable
from multiflora_platform.registry.ingest import Ingest, Obtain, Scratch, Submission, moved_from
from multiflora_platform.registry.live import Live
from multiflora_platform.registry.sources import Sources
from multiflora_platform.registry.uploads import Upload


class VersionIntake:
    """The steps from files to a version are ingest.py's."""

    def __init__(self, database: Database, live: Live, ingest: Ingest, scratch: Scratch, sources: Sources) -> None:
        self._database = database
        self._live = live
        self._ingest = ingest
        self._scratch = scratch
        self._sources = sources

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
        self._live.adapter(name)
        with full_disk_reported():
            async with self._scratch.folder() as received:
                fingerprint = await Upload(received, self._sources.max_bytes).receive(content_type, length, chunks)
                request = Repeatable(key, _hash(fingerprint, promote))
                return await self.submit(name, moved_from(received, "upload"), actor, promote, request)

    async def submit(self, name: str, obtain: Obtain, actor: str, promote: bool, request: Repeatable) -> Outcome:
        """The version that `obtain` provides; raises VersionRejected."""
        submission = Submission(self._live.adapter(name).id, name, obtain, actor, promote, request)
        with full_disk_reported():
            return (await self._ingest.submit(submission)).unwrapped()

    async def version(self, name: str, number: int) -> dict[str, Any]:
        entry = self._live.adapter(name)
        async with self._database.read() as session:
            row = await versions.require(session, entry.id, name, number)
            return (await versions.views(session, name, [row]))[0]

    async def page(self, name: str, before: int, limit: int) -> list[dict[str, Any]]:
        """Newest first, numbers below `before`."""
        entry = self._live.adapter(name)
        async with self._database.read() as session:
            return await versions.views(session, name, await versions.page(session, entry.id, before, limit))

    async def report(self, name: str, number: int) -> dict[str, Any]:
        entry = self._live.adapter(name)
        async with self._database.read() as session:
            row = await versions.require(session, entry.id, name, number)
            rows = await versions.report(session, row.id)
        return {"adapter": name, "version": number, "state": row.state, "rows": rows}


def _hash(*parts: object) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
