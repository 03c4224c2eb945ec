"""Where new versions come in: an upload's body, or a source's address. Each request is filed as a job and answered.

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
from multiflora_platform.registry.intake.import_job import read_card
from multiflora_platform.registry.intake.uploads import ReceivedUpload
from multiflora_platform.registry.intake.version_checks import VersionChecks
from multiflora_platform.registry.jobs.runner import JobRunner
from multiflora_platform.registry.rows import aliases, idempotency, jobs, version_queries, versions
from multiflora_platform.registry.rows.adapters import require
from multiflora_platform.registry.rows.idempotency import Filed, Repeatable, StoredAnswer
from multiflora_platform.registry.schemas.version_metadata import NO_DETAILS, VersionDetails, Vet, read_details
from multiflora_platform.registry.serving.warm_up import WarmUp
from multiflora_platform.registry.snapshot.store import SnapshotStore
from multiflora_platform.registry.sources.resolver import Sources
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.disk_errors import full_disk_reported
from multiflora_platform.storage.tables import AdapterRow
from multiflora_platform.web.problems import Unavailable

# Large adapters take long to check; a client that hears nothing for longer would give up.
PATIENCE_SECONDS = 60.0
_FOR_EVER = float("inf")


@dataclass(frozen=True)
class VersionRequest:
    """A version that a client asks for, as the route read it from the request."""

    adapter: str  # the adapter's name
    actor: str  # the client, as the audit names it
    promote: bool = False  # whether `default` moves to the version once it is ready
    key: str | None = None  # the Idempotency-Key
    details: VersionDetails = NO_DETAILS  # of an upload, filled once the body has been received
    vet: Vet = lambda asked: None  # of what its evals ask; raises what one is refused for
    # Seconds for the answer (Prefer: wait=). None: until it is there or PATIENCE_SECONDS have passed, and not at all
    # for what is fetched over the network.
    wait: float | None = None


@dataclass(frozen=True)
class _Submission:
    """A version request with what tells it from others, and its files if they are here."""

    request: VersionRequest
    adapter_id: int  # of the adapter that had the name when the request came
    repeatable: Repeatable
    source: str  # as the version's row records it
    folder: Path | None  # with the adapter's files; None: a job has to fetch them


class VersionIntake:
    """The steps from files to a version are import_job.py's."""

    def __init__(
        self,
        database: Database,
        snapshots: SnapshotStore,
        store: ArtifactStore,
        checks: VersionChecks,
        runner: JobRunner,
        scratch: Scratch,
        sources: Sources,
        warm_up: WarmUp,
    ) -> None:
        self._database = database
        self._snapshots = snapshots
        self._store = store
        self._checks = checks
        self._runner = runner
        self._scratch = scratch
        self._sources = sources
        self._warm_up = warm_up
        self._tasks: set[asyncio.Task[Filed]] = set()

    async def add_source(self, request: VersionRequest, source: str) -> StoredAnswer:
        """source: file://, hf:// or s3://. Raises VersionRejected, what Sources raises, and what the vet does."""
        _vet(request)
        adapter_id = self._snapshots.adapter(request.adapter).id
        repeatable = Repeatable(request.key, _hash(source, request.promote, request.details))
        if filed := await self._recall(adapter_id, repeatable):
            return await self._answer(filed, request)
        if self._sources.is_remote(source):
            filed = await self._whole(self._file(_Submission(request, adapter_id, repeatable, source, None)))
            return await self._answer(filed, replace(request, wait=request.wait or 0.0))
        with full_disk_reported():
            async with self._scratch.folder() as folder:
                recorded = await asyncio.to_thread(self._sources.fetch_local, source, folder)
                filed = await self._whole(self._file(_Submission(request, adapter_id, repeatable, recorded, folder)))
        return await self._answer(filed, request)

    async def add_upload(
        self, request: VersionRequest, content_type: str, length: str | None, chunks: AsyncIterator[bytes]
    ) -> StoredAnswer:
        """A body as it comes from the network (uploads.py). Raises VersionRejected, and as `receive` and the vet."""
        adapter_id = self._snapshots.adapter(request.adapter).id
        with full_disk_reported():
            async with self._scratch.folder() as folder:
                upload = ReceivedUpload(folder, self._sources.max_bytes)
                fingerprint = await upload.receive(content_type, length, chunks)
                if upload.metadata is not None:
                    request = replace(request, details=read_details(upload.metadata))
                    _vet(request)
                repeatable = Repeatable(request.key, _hash(fingerprint, request.promote))
                filed = await self._whole(self._file(_Submission(request, adapter_id, repeatable, "upload", folder)))
        return await self._answer(filed, request)

    async def add_folder(self, request: VersionRequest, folder: Path, source: str) -> StoredAnswer:
        """A folder that the caller made and may lose. Raises VersionRejected."""
        adapter_id = self._snapshots.adapter(request.adapter).id
        submission = _Submission(request, adapter_id, Repeatable(None, ""), source, folder)
        with full_disk_reported():
            return await self._answer(await self._whole(self._file(submission)), replace(request, wait=_FOR_EVER))

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
            manifest = await self._checks.identify(folder)
            card = await asyncio.to_thread(read_card, folder)
        base_digest = await self._checks.base_of(folder)
        if folder is not None:
            await self._prepare_known(submission, manifest, folder, base_digest)
            await self._lend(manifest, folder)
            # Before the transaction: a job that is committed without its files on the disk could never be run.
            folder = await asyncio.to_thread(self._scratch.adopt, folder, job_id)

        async def work(change: Change) -> Filed:
            return await self._decide(change, submission, job_id, manifest, card, base_digest)

        filed = Filed()
        try:
            filed = await self._database.write(submission.request.actor, work)
        finally:
            # The transaction failed, or found an answer or another job: these files are needed no more.
            if folder is not None and filed.job_id != job_id:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        self._runner.kick()
        return filed

    async def _decide(
        self,
        change: Change,
        submission: _Submission,
        job_id: str,
        manifest: AdapterManifest | None,
        card: str | None,
        base_digest: str,
    ) -> Filed:
        """Known by its key, known by its content, being made already, or a new version and its job."""
        request, digest = submission.request, manifest.digest if manifest else None
        adapter = await _same(change, submission)
        # Looked up again, inside the write: of two equal requests at the same time the second finds the first's row.
        if filed := await idempotency.recall(change.session, adapter.id, submission.repeatable):
            return filed
        filed = await self._known(change, request, adapter, digest, base_digest) if digest else None
        if filed is None:
            version = await versions.begin(
                change,
                adapter,
                submission.source,
                base_digest,
                request.details,
                here=submission.folder is not None,
                digest=digest,
                card=card,
            )
            jobs.create(change, job_id, version, request.promote)
            filed = Filed(job_id=job_id)
        await change.session.flush()
        await idempotency.remember(change, adapter.id, submission.repeatable, filed)
        await self._snapshots.touch(change, request.adapter)
        return filed

    async def _known(
        self, change: Change, request: VersionRequest, adapter: AdapterRow, digest: str, base_digest: str
    ) -> Filed | None:
        ready = await version_queries.find_ready(change.session, adapter.id, digest, base_digest)
        if ready is not None:
            if request.promote:
                await aliases.make_default(change, adapter, ready.number)
            return Filed(StoredAnswer(200, await version_queries.view(change.session, ready, adapter.name)))
        job = await jobs.making(change.session, adapter.id, digest, base_digest)
        if job is None:
            return None
        # The job serves both clients: one that wants the version promoted gets it, the other does not mind.
        job.promote = job.promote or request.promote
        return Filed(job_id=job.id, joined=True)

    async def _prepare_known(
        self, submission: _Submission, manifest: AdapterManifest | None, folder: Path, base_digest: str
    ) -> None:
        """A ready version whose artifact was lost from the disk: the same content brings it back. One that is about to
        be promoted is warmed up."""
        entry = self._snapshots.adapter(submission.request.adapter)
        if manifest is None or not entry.has(manifest.digest, base_digest):
            return
        if not self._store.has(manifest.digest):
            await asyncio.to_thread(self._store.add, folder)
        if submission.request.promote:
            await self._warm_up.version(submission.request.adapter, manifest.digest, base_digest)

    async def _lend(self, manifest: AdapterManifest | None, folder: Path) -> None:
        """So that a server elsewhere can go on with the job. Raises Unavailable."""
        if manifest is not None:
            try:
                await asyncio.to_thread(self._store.lend, manifest.digest, folder)
            except OSError as error:
                raise Unavailable(f"The version cannot be added now: {error}.") from error

    async def _recall(self, adapter_id: int, repeatable: Repeatable) -> Filed | None:
        async with self._database.read() as session:
            return await idempotency.recall(session, adapter_id, repeatable)

    async def _answer(self, filed: Filed, request: VersionRequest) -> StoredAnswer:
        """The answer if it comes in time, otherwise 202. Raises VersionRejected, AdapterNotFound, JobCancelled."""
        if filed.answer is not None:
            return filed.answer.unwrapped()
        assert filed.job_id is not None, "an answer or a job"
        wait = PATIENCE_SECONDS if request.wait is None else request.wait
        stored = await self._runner.answer(filed.job_id, wait)
        if stored is None:
            return await self._accepted(filed.job_id, request.adapter)
        answer = stored.unwrapped()
        # 201 is for the request that made the version; one that joined its job gets an existing version.
        return StoredAnswer(200, answer.body) if filed.joined else answer

    async def _accepted(self, job_id: str, adapter: str) -> StoredAnswer:
        async with self._database.read() as session:
            job = await jobs.require(session, job_id)
            version = await version_queries.of_id(session, job.version_id)
            view = await version_queries.view(session, version, adapter)
            return StoredAnswer(202, {**view, "job": (await jobs.views(session, [job]))[0]})


async def _same(change: Change, submission: _Submission) -> AdapterRow:
    """The adapter that was asked for, unless it was deleted (or deleted and made anew) meanwhile."""
    adapter = await require(change.session, submission.request.adapter)
    if adapter.id != submission.adapter_id:
        raise AdapterNotFound(f"The adapter {submission.request.adapter!r} was deleted meanwhile.")
    return adapter


def _vet(request: VersionRequest) -> None:
    for one in request.details.evals:
        request.vet(one)


def _hash(*parts: object) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
