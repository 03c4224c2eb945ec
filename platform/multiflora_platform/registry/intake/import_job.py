"""What a job does: an adapter's files become a version. Fetched, identified, checked, and only then ready or rejected.

Knows the order of these steps; each can be repeated after a crash. Does not know what is checked (version_checks.py),
HTTP, or when it runs (jobs/runner.py).
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import msgspec

from multiflora_adapters.manifest import CARD_NAME, AdapterManifest
from multiflora_adapters.report import ValidationRow
from multiflora_platform.registry.artifacts.collector import Artifacts
from multiflora_platform.registry.artifacts.scratch import Scratch
from multiflora_platform.registry.intake import evals
from multiflora_platform.registry.intake.version_checks import RefusedVersion, VersionChecks
from multiflora_platform.registry.jobs.runner import Progress
from multiflora_platform.registry.rows import aliases, idempotency, jobs, version_queries, versions
from multiflora_platform.registry.rows.idempotency import StoredAnswer
from multiflora_platform.registry.rows.jobs import ClaimedJob, LeaseLost
from multiflora_platform.registry.rows.versions import ValidatedVersion
from multiflora_platform.registry.schemas.version_metadata import MAX_CARD_BYTES, Eval
from multiflora_platform.registry.serving.warm_up import WarmUp
from multiflora_platform.registry.snapshot.store import SnapshotStore
from multiflora_platform.registry.sources.resolver import Sources
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.tables import AdapterRow, JobRow, VersionRow
from multiflora_platform.web.problems import InsufficientStorage, Problem


class Imports:
    """`run` is a JobRunner's work, `fail` what it does when no attempt is left."""

    def __init__(
        self,
        database: Database,
        snapshots: SnapshotStore,
        artifacts: Artifacts,
        scratch: Scratch,
        sources: Sources,
        checks: VersionChecks,
        warm_up: WarmUp,
    ) -> None:
        self._database = database
        self._snapshots = snapshots
        self._artifacts = artifacts
        self._scratch = scratch
        self._sources = sources
        self._checks = checks
        self._warm_up = warm_up

    async def run(self, claimed: ClaimedJob, progress: Progress) -> None:
        """The whole job. Raises LeaseLost, Problem, or what disks and engines raise; then nothing is decided."""
        # The version's state is the job's progress: after a crash the next worker goes on where this one stopped.
        version = await self._version(claimed)
        if version.state == "validating":
            folder = await self._received(claimed, version.digest)
        else:
            folder = self._scratch.make(claimed.id)
            source = await self._fetch(claimed, folder, progress)
            manifest = await self._checks.identify(folder)
            base_digest = await self._checks.base_of(folder)
            if manifest is not None:
                await asyncio.to_thread(self._artifacts.store.lend, manifest.digest, folder)
            if await self._name(claimed, source, manifest, folder, base_digest):
                await self._scratch.remove(claimed.id)
                return
            version = await self._version(claimed)
        found = await self._checks.check(folder, _asked(version), version.base_digest)
        if isinstance(found, ValidatedVersion):
            await self._accept(claimed, found, version.base_digest)
        else:
            await self._reject(claimed, found)
        # Last: a crash before the commit above must find the files again.
        await self._scratch.remove(claimed.id)

    async def fail(self, claimed: ClaimedJob, error: Exception) -> None:
        """No further attempt: rejected with what went wrong. For our own fault, the client may try again."""
        theirs = isinstance(error, Problem) and error.status < 500
        message = error.detail if isinstance(error, Problem) else f"Registration failed: {error!r}."
        hint = None if theirs else f"Given up after {claimed.attempts} attempts; try again later."
        row = ValidationRow(check="source" if isinstance(error, Problem) else "internal", severity="error",
                            message=message, hint=hint)  # fmt: skip
        await self._reject(claimed, RefusedVersion([row], our_fault=None if theirs else error))
        await self._scratch.remove(claimed.id)

    async def _version(self, claimed: ClaimedJob) -> VersionRow:
        """Validating: its files need no fetching (any more)."""
        async with self._database.read() as session:
            return await session.get_one(VersionRow, claimed.version_id)

    async def _received(self, claimed: ClaimedJob, digest: str | None) -> Path:
        """The job's folder, with its files if any server has them: what one elsewhere received is brought. Raises
        OSError."""
        store = self._artifacts.store
        if digest is not None and store.origin is not None and not self._scratch.has_job(claimed.id):
            with contextlib.suppress(FileNotFoundError):  # which the checks tell
                async with self._scratch.folder() as folder:
                    await asyncio.to_thread(store.fetch, digest, folder)
                    await asyncio.to_thread(self._scratch.adopt, folder, claimed.id)
        return self._scratch.of_job(claimed.id)

    async def _fetch(self, claimed: ClaimedJob, folder: Path, progress: Progress) -> str:
        async def work(change: Change) -> None:
            await jobs.require_lease(change, claimed)
            await versions.fetching(change, claimed.version_id)
            change.tell("version.fetching", adapter=claimed.adapter, version=claimed.number, job=claimed.id)

        await self._database.write(claimed.actor, work)
        return await asyncio.to_thread(self._sources.fetch_remote, claimed.source, folder, progress.reach)

    async def _name(
        self, claimed: ClaimedJob, source: str, manifest: AdapterManifest | None, folder: Path, base_digest: str
    ) -> bool:
        """The version gets its pinned source, its digest and its base model; True when the adapter has this content
        already."""
        card = await asyncio.to_thread(read_card, folder)

        async def work(change: Change) -> bool:
            job = await jobs.require_lease(change, claimed)
            version = await change.session.get_one(VersionRow, claimed.version_id)
            version.source, version.card, version.base_digest = source, card, base_digest
            digest = manifest.digest if manifest else None
            known = digest and await version_queries.find_ready(change.session, claimed.adapter_id, digest, base_digest)
            if not known:
                versions.identify(change, version, digest)
                await self._snapshots.touch(change, claimed.adapter)
                return False
            adapter = await change.session.get_one(AdapterRow, claimed.adapter_id)
            row = ValidationRow(
                check="duplicate",
                severity="info",
                message=f"Version {known.number} has the same content; this one is archived.",
            )
            await versions.archive(change, adapter, version, [row])
            if claimed.promote:
                await aliases.make_default(change, adapter, known.number)
            view = await version_queries.view(change.session, known, claimed.adapter)
            await self._conclude(change, job, claimed, StoredAnswer(200, view))
            return True

        return await self._database.write(claimed.actor, work)

    async def _accept(self, claimed: ClaimedJob, validated: ValidatedVersion, base_digest: str) -> None:
        async def work(change: Change) -> None:
            job = await jobs.require_lease(change, claimed)
            row = await versions.finish(change, claimed.version_id, validated, claimed.promote)
            view = await version_queries.view(change.session, row, claimed.adapter)
            await self._conclude(change, job, claimed, StoredAnswer(201, view))

        # Before the transaction, which holds the only write lock and must not wait for an engine.
        if claimed.promote:
            await self._warm_up.version(claimed.adapter, validated.manifest.digest, base_digest)
        try:
            await self._database.write(claimed.actor, work)
        except LeaseLost:
            # The checks have stored the artifact; no version will name it unless the job's next worker does.
            self._artifacts.collect_soon(validated.manifest.digest)
            raise

    async def _reject(self, claimed: ClaimedJob, refused: RefusedVersion) -> None:
        async def work(change: Change) -> str | None:
            job = await jobs.require_lease(change, claimed)
            row = await versions.reject(change, claimed.version_id, refused.rows, refused.evals)
            answer = await rejection(change, claimed.adapter, row)
            if refused.our_fault is not None:
                # A rejection is the answer to every repetition; a full disk or a dead engine must not be.
                await idempotency.forget_job(change, claimed.id)
                if isinstance(refused.our_fault, InsufficientStorage):
                    answer = StoredAnswer(507, {"detail": refused.our_fault.detail})
            await self._conclude(change, job, claimed, answer)
            return row.digest

        digest = await self._database.write(claimed.actor, work)
        if digest is not None:
            self._artifacts.collect_soon(digest)

    async def _conclude(self, change: Change, job: JobRow, claimed: ClaimedJob, answer: StoredAnswer) -> None:
        jobs.finish(change, job, answer)
        await self._snapshots.touch(change, claimed.adapter)


def _asked(version: VersionRow) -> list[Eval]:
    """The evals that came with it; an earlier attempt left its results beside what was asked."""
    asked = [{key: value for key, value in one.items() if key not in evals.RESULTS} for one in version.evals]
    return msgspec.convert(asked, list[Eval])


async def rejection(change: Change, adapter: str, row: VersionRow) -> StoredAnswer:
    """The answer to the request that made the rejected version."""
    await change.session.flush()
    rows = await version_queries.report(change.session, row.id)
    errors = [line["message"] for line in rows if line["severity"] == "error"]
    detail = f"Version {row.number} of {adapter!r} was rejected: {' '.join(errors[:3])}"
    return StoredAnswer(422, {"detail": detail, "rows": rows, "adapter": adapter, "version": row.number})


def read_card(folder: Path) -> str | None:
    """README.md of the folder, unless it is too long for a card or no text."""
    try:
        with (folder / CARD_NAME).open("rb") as file:
            content = file.read(MAX_CARD_BYTES + 1)
    except OSError:
        return None
    if len(content) > MAX_CARD_BYTES or b"\0" in content:
        return None
    return content.decode("utf-8", "replace")
