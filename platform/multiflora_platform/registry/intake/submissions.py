"""Where new versions come in: an upload's body, or a source's address. Each wish is filed as a job and answered.

What the job does is import_job.py's. A request is known again by its Idempotency-Key, content by its digest.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from multiflora_adapters.manifest import AdapterManifest
from multiflora_adapters.store import ArtifactStore
from multiflora_platform.registry.artifacts.scratch import Scratch
from multiflora_platform.registry.errors import AdapterNotFound
from multiflora_platform.registry.intake.import_job import Imports, read_card
from multiflora_platform.registry.intake.uploads import Upload
from multiflora_platform.registry.jobs.runner import JobRunner
from multiflora_platform.registry.rows import aliases, idempotency, jobs, versions
from multiflora_platform.registry.rows import version_queries as version_views
from multiflora_platform.registry.rows.adapters import require
from multiflora_platform.registry.rows.idempotency import Filed, Outcome, Repeatable
from multiflora_platform.registry.schemas.version_metadata import NO_DETAILS, VersionDetails, read_details
from multiflora_platform.registry.serving.warm_up import WarmUp
from multiflora_platform.registry.snapshot.store import Live
from multiflora_platform.registry.sources.resolver import Sources
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.disk_errors import full_disk_reported
from multiflora_platform.storage.tables import AdapterRow

# Large adapters take long to check; a client that hears nothing for longer would give up.
PATIENCE_SECONDS = 60.0
_FOR_EVER = float("inf")


@dataclass(frozen=True)
class Wish:
    """A version that somebody wants.

    wait: seconds for the outcome; None: until it is there or PATIENCE_SECONDS have passed, and not at all for what is
    fetched over the network.
    """

    adapter: str
    actor: str
    promote: bool = False
    key: str | None = None
    details: VersionDetails = NO_DETAILS
    wait: float | None = None


@dataclass(frozen=True)
class _Submission:
    """A wish with its request's identity and, unless they are still to be fetched, its files."""

    wish: Wish
    adapter_id: int
    request: Repeatable
    source: str
    folder: Path | None


class VersionIntake:
    """The steps from files to a version are import_job.py's."""

    def __init__(
        self,
        database: Database,
        live: Live,
        store: ArtifactStore,
        imports: Imports,
        runner: JobRunner,
        scratch: Scratch,
        sources: Sources,
        base_digest: str,
        warm_up: WarmUp,
    ) -> None:
        self._database = database
        self._live = live
        self._store = store
        self._imports = imports
        self._runner = runner
        self._scratch = scratch
        self._sources = sources
        self._base_digest = base_digest
        self._warm_up = warm_up
        self._tasks: set[asyncio.Task[Filed]] = set()

    async def add_source(self, wish: Wish, source: str) -> Outcome:
        """source: file://, hf:// or s3://. Raises VersionRejected and what Sources raises."""
        adapter_id = self._live.adapter(wish.adapter).id
        request = Repeatable(wish.key, _hash(source, wish.promote, wish.details))
        if filed := await self._recall(adapter_id, request):
            return await self._answer(filed, wish)
        if self._sources.is_remote(source):
            filed = await self._whole(self._file(_Submission(wish, adapter_id, request, source, None)))
            return await self._answer(filed, replace(wish, wait=wish.wait or 0.0))
        with full_disk_reported():
            async with self._scratch.folder() as folder:
                recorded = await asyncio.to_thread(self._sources.fetch_local, source, folder)
                filed = await self._whole(self._file(_Submission(wish, adapter_id, request, recorded, folder)))
        return await self._answer(filed, wish)

    async def add_upload(
        self, wish: Wish, content_type: str, length: str | None, chunks: AsyncIterator[bytes]
    ) -> Outcome:
        """A body as it comes from the network (uploads.py). Raises VersionRejected and what Upload.receive raises."""
        adapter_id = self._live.adapter(wish.adapter).id
        with full_disk_reported():
            async with self._scratch.folder() as folder:
                upload = Upload(folder, self._sources.max_bytes)
                fingerprint = await upload.receive(content_type, length, chunks)
                if upload.metadata is not None:
                    wish = replace(wish, details=read_details(upload.metadata))
                request = Repeatable(wish.key, _hash(fingerprint, wish.promote))
                filed = await self._whole(self._file(_Submission(wish, adapter_id, request, "upload", folder)))
        return await self._answer(filed, wish)

    async def add_folder(self, wish: Wish, folder: Path, source: str) -> Outcome:
        """A folder that the caller made and may lose. Raises VersionRejected."""
        adapter_id = self._live.adapter(wish.adapter).id
        submission = _Submission(wish, adapter_id, Repeatable(None, ""), source, folder)
        with full_disk_reported():
            return await self._answer(await self._whole(self._file(submission)), replace(wish, wait=_FOR_EVER))

    async def close(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _whole(self, filing: Coroutine[Any, Any, Filed]) -> Filed:
        """A client that goes away does not leave a job without its files, or files without their job."""
        task = asyncio.create_task(filing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _file(self, submission: _Submission) -> Filed:
        """One transaction: the version and its job, or what makes them unnecessary."""
        job_id = jobs.new_id()
        manifest, card, folder = None, None, submission.folder
        if folder is not None:
            manifest = await self._imports.identify(folder)
            card = await asyncio.to_thread(read_card, folder)
            await self._prepare_known(submission, manifest, folder)
            folder = await asyncio.to_thread(self._scratch.adopt, folder, job_id)

        async def work(change: Change) -> Filed:
            return await self._decide(change, submission, job_id, manifest, card)

        filed = Filed()
        try:
            filed = await self._database.write(submission.wish.actor, work)
        finally:
            if folder is not None and filed.job_id != job_id:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        self._runner.kick()
        return filed

    async def _decide(
        self, change: Change, submission: _Submission, job_id: str, manifest: AdapterManifest | None, card: str | None
    ) -> Filed:
        """Known by its key, known by its content, being made already, or a new version and its job."""
        wish, digest = submission.wish, manifest.digest if manifest else None
        adapter = await _same(change, submission)
        if filed := await idempotency.recall(change.session, adapter.id, submission.request):
            return filed
        filed = await self._known(change, wish, adapter, digest) if digest else None
        if filed is None:
            here = submission.folder is not None
            version = await versions.begin(
                change, adapter, submission.source, self._base_digest, wish.details, here=here, digest=digest, card=card
            )
            jobs.create(change, job_id, version, wish.promote)
            filed = Filed(job_id=job_id)
        await change.session.flush()
        await idempotency.remember(change, adapter.id, submission.request, filed)
        await self._live.touch(change, wish.adapter)
        return filed

    async def _known(self, change: Change, wish: Wish, adapter: AdapterRow, digest: str) -> Filed | None:
        ready = await versions.find_ready(change.session, adapter.id, digest, self._base_digest)
        if ready is not None:
            if wish.promote:
                await aliases.make_default(change, adapter, ready.number)
            return Filed(Outcome(200, await version_views.view(change.session, ready, adapter.name)))
        job = await jobs.making(change.session, adapter.id, digest, self._base_digest)
        if job is None:
            return None
        job.promote = job.promote or wish.promote
        return Filed(job_id=job.id, joined=True)

    async def _prepare_known(self, submission: _Submission, manifest: AdapterManifest | None, folder: Path) -> None:
        """A ready version whose artifact was lost from the disk: the same content brings it back. One that is about to
        be promoted is warmed up."""
        if manifest is None:
            return
        async with self._database.read() as session:
            known = await versions.find_ready(session, submission.adapter_id, manifest.digest, self._base_digest)
        if known is not None and not self._store.has(manifest.digest):
            await asyncio.to_thread(self._store.add, folder)
        if known is not None and submission.wish.promote:
            await self._warm_up.version(submission.wish.adapter, manifest.digest)

    async def _recall(self, adapter_id: int, request: Repeatable) -> Filed | None:
        async with self._database.read() as session:
            return await idempotency.recall(session, adapter_id, request)

    async def _answer(self, filed: Filed, wish: Wish) -> Outcome:
        """The outcome if it comes in time, otherwise 202. Raises VersionRejected, AdapterNotFound, JobCancelled."""
        if filed.outcome is not None:
            return filed.outcome.unwrapped()
        assert filed.job_id is not None, "an outcome or a job"
        wait = PATIENCE_SECONDS if wish.wait is None else wish.wait
        if not await self._runner.ended(filed.job_id, wait):
            return await self._accepted(filed.job_id, wish.adapter)
        outcome = (await self._runner.outcome(filed.job_id)).unwrapped()
        return Outcome(200, outcome.body) if filed.joined else outcome

    async def _accepted(self, job_id: str, adapter: str) -> Outcome:
        async with self._database.read() as session:
            job = await jobs.require(session, job_id)
            version = await versions.of_id(session, job.version_id)
            view = await version_views.view(session, version, adapter)
            return Outcome(202, {**view, "job": (await jobs.views(session, [job]))[0]})


async def _same(change: Change, submission: _Submission) -> AdapterRow:
    """The adapter that was asked for, unless it was deleted (or deleted and made anew) meanwhile."""
    adapter = await require(change.session, submission.wish.adapter)
    if adapter.id != submission.adapter_id:
        raise AdapterNotFound(f"The adapter {submission.wish.adapter!r} was deleted meanwhile.")
    return adapter


def _hash(*parts: object) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
