"""A folder with an adapter's files becomes a version: identified, validated, stored, tried, and only then ready.

Knows the order of these steps and what may run at the same time; does not know HTTP or where the files came from.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from multiflora_adapters.base_model import BaseModel
from multiflora_adapters.manifest import AdapterManifest, read_manifest
from multiflora_adapters.report import AdapterError
from multiflora_adapters.validation import ValidationRow, validate_adapter
from multiflora_platform.registry import aliases, idempotency, versions
from multiflora_platform.registry.artifacts import Artifacts
from multiflora_platform.registry.catalog import require
from multiflora_platform.registry.database import Change, Database, private_folder
from multiflora_platform.registry.errors import AdapterNotFound
from multiflora_platform.registry.idempotency import Outcome, Repeatable
from multiflora_platform.registry.locks import KeyedLocks
from multiflora_platform.registry.probing import Prober, probe
from multiflora_platform.registry.tables import Adapter, Version

_VALIDATIONS_AT_ONCE = 2


# Puts an adapter's two files into the folder and returns the source to record.
Obtain = Callable[[Path], Awaitable[str]]


def moved_from(received: Path, source: str) -> Obtain:
    """The files lie in `received` already."""

    def move(folder: Path) -> str:
        for file in received.iterdir():
            file.rename(folder / file.name)
        return source

    async def obtain(folder: Path) -> str:
        return await asyncio.to_thread(move, folder)

    return obtain


@dataclass(frozen=True)
class Submission:
    """One wish for a version."""

    adapter_id: int
    adapter: str
    obtain: Obtain
    actor: str
    promote: bool
    request: Repeatable


class Scratch:
    """Folders that live as long as one request, all below one root that a start empties."""

    def __init__(self, root: Path) -> None:
        self.root = private_folder(root)

    def clear(self) -> None:
        for entry in self.root.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)

    @asynccontextmanager
    async def folder(self) -> AsyncIterator[Path]:
        folder = private_folder(self.root / secrets.token_hex(8))
        try:
            yield folder
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


class Ingest:
    """prober, warm_up: set when an engine is there; warm_up(adapter, digest) runs before a version is promoted.

    touched(change, name): the adapter changed, the snapshot must follow."""

    def __init__(
        self,
        database: Database,
        artifacts: Artifacts,
        scratch: Scratch,
        base: BaseModel,
        max_rank: int,
        touched: Callable[[Change, str], Awaitable[None]],
    ) -> None:
        self._database = database
        self._artifacts = artifacts
        self._scratch = scratch
        self._base = base
        self._max_rank = max_rank
        self._touched = touched
        self._locks = KeyedLocks()
        self._room = asyncio.Semaphore(_VALIDATIONS_AT_ONCE)
        self._tasks: set[asyncio.Task[Outcome]] = set()
        self.prober: Prober | None = None
        self.warm_up: Callable[[str, str], Awaitable[None]] | None = None

    async def submit(self, submission: Submission) -> Outcome:
        """The outcome, also when the version is rejected (status 422). A caller that goes away does not stop it."""
        task = asyncio.create_task(self._in_turn(submission))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _in_turn(self, submission: Submission) -> Outcome:
        """Requests with one Idempotency-Key go one by one; all after the first get its answer."""
        request = submission.request
        async with AsyncExitStack() as stack:
            if request.key is not None:
                await stack.enter_async_context(self._locks.hold((submission.adapter_id, request.key)))
                async with self._database.read() as session:
                    if known := await idempotency.recall(session, submission.adapter_id, request):
                        return known
            folder = await stack.enter_async_context(self._scratch.folder())
            source = await submission.obtain(folder)
            async with self._room:
                manifest = await asyncio.to_thread(_identify, folder)
            if manifest is None:
                return await self._make(submission, folder, source, None)
            async with self._artifacts.exclusive(manifest.digest):
                known = await self._known(submission, folder, manifest)
                return known or await self._make(submission, folder, source, manifest)

    async def _known(self, submission: Submission, folder: Path, manifest: AdapterManifest) -> Outcome | None:
        """The adapter has a ready version of this digest: that one it is, promoted if that was asked for."""

        async def work(change: Change) -> Outcome | None:
            adapter = await _same(change, submission)
            row = await versions.find_ready(change.session, adapter.id, manifest.digest, self._base.digest)
            if row is None:
                return None
            if submission.promote:
                await aliases.make_default(change, adapter, row.number)
            return await self._conclude(change, submission, 200, row)

        async with self._database.read() as session:
            row = await versions.find_ready(session, submission.adapter_id, manifest.digest, self._base.digest)
        if row is None:
            return None
        if not self._artifacts.store.has(manifest.digest):  # lost from the disk: the upload brings it back
            await asyncio.to_thread(self._artifacts.store.add, folder)
        await self._warm(submission, manifest.digest)
        return await self._database.write(submission.actor, work)

    async def _warm(self, submission: Submission, digest: str) -> None:
        """Traffic is about to move to it."""
        if submission.promote and self.warm_up is not None:
            await self.warm_up(submission.adapter, digest)

    async def _make(
        self, submission: Submission, folder: Path, source: str, manifest: AdapterManifest | None
    ) -> Outcome:
        async def begin(change: Change) -> int:
            await _same(change, submission)
            return (await versions.begin(change, submission.adapter_id, source, self._base.digest)).id

        version_id = await self._database.write(submission.actor, begin)
        digest = manifest.digest if manifest else None
        try:
            rows, stored = await self._judge(folder)
        except Exception as error:
            # The number is taken; the version must not stay in "validating" because a disk or the engine failed.
            row = ValidationRow(check="internal", severity="error", message=f"Registration failed: {error!r}.")
            await self._abandon(submission, version_id, row, digest)
            raise
        if stored is None:
            return await self._reject(submission, version_id, rows, digest)
        return await self._accept(submission, version_id, rows, stored)

    async def _judge(self, folder: Path) -> tuple[list[ValidationRow], AdapterManifest | None]:
        """The report's rows, and the stored artifact's manifest unless a row is an error."""
        async with self._room:
            report = await asyncio.to_thread(validate_adapter, folder, self._base, self._max_rank)
            rows = list(report.rows)
            if not report.ok:
                return rows, None
            stored = await asyncio.to_thread(self._artifacts.store.add, folder)
        rows.append(await probe(self.prober, stored.digest))
        if rows[-1].severity == "error":
            self._artifacts.collect_soon(stored.digest)
            return rows, None
        return rows, stored

    async def _accept(
        self, submission: Submission, version_id: int, rows: Iterable[ValidationRow], stored: AdapterManifest
    ) -> Outcome:
        async def work(change: Change) -> Outcome:
            row = await versions.finish(change, version_id, stored, list(rows), submission.promote)
            return await self._conclude(change, submission, 201, row)

        await self._warm(submission, stored.digest)
        outcome = await self._database.write(submission.actor, work)
        if outcome.body["state"] != "ready":
            self._artifacts.collect_soon(stored.digest)
            raise AdapterNotFound(f"The adapter {submission.adapter!r} was deleted while its version was being made.")
        return outcome

    async def _reject(
        self, submission: Submission, version_id: int, rows: list[ValidationRow], digest: str | None
    ) -> Outcome:
        async def work(change: Change) -> Outcome:
            row = await versions.reject(change, version_id, rows, digest)
            return await self._conclude(change, submission, 422, row)

        return await self._database.write(submission.actor, work)

    async def _abandon(self, submission: Submission, version_id: int, row: ValidationRow, digest: str | None) -> None:
        """Rejected for our own fault: not remembered as the answer, so the client may try again."""

        async def work(change: Change) -> None:
            await versions.reject(change, version_id, [row], digest)

        await self._database.write(submission.actor, work)

    async def _conclude(self, change: Change, submission: Submission, status: int, row: Version) -> Outcome:
        """The answer, remembered under the request's key in the same transaction."""
        await change.session.flush()
        if status == 422:
            rows = await versions.report(change.session, row.id)
            errors = [line["message"] for line in rows if line["severity"] == "error"]
            detail = f"Version {row.number} of {submission.adapter!r} was rejected: {' '.join(errors[:3])}"
            body = {"detail": detail, "rows": rows, "adapter": submission.adapter, "version": row.number}
        else:
            body = (await versions.views(change.session, submission.adapter, [row]))[0]
        outcome = Outcome(status, body)
        if "state" not in body or body["state"] == "ready":
            idempotency.remember(change, submission.adapter_id, submission.request, outcome)
        await self._touched(change, submission.adapter)
        return outcome


async def _same(change: Change, submission: Submission) -> Adapter:
    """The adapter that was asked for, unless it was deleted (or deleted and made anew) meanwhile."""
    adapter = await require(change.session, submission.adapter)
    if adapter.id != submission.adapter_id:
        raise AdapterNotFound(f"The adapter {submission.adapter!r} was deleted meanwhile.")
    return adapter


def _identify(folder: Path) -> AdapterManifest | None:
    """None when the files cannot be read as an adapter; validation then says why."""
    try:
        return read_manifest(folder)
    except AdapterError:
        return None
