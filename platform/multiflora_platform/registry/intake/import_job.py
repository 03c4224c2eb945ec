"""What a job does: an adapter's files become a version. Fetched, identified, validated, stored, tried, and only then
ready.

Knows the order of these steps; each can be repeated after a crash. Does not know HTTP or when it runs (jobs/runner.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from multiflora_adapters.base_model import BaseModel
from multiflora_adapters.facts import read_facts
from multiflora_adapters.manifest import CARD_NAME, AdapterManifest, read_manifest
from multiflora_adapters.report import AdapterError
from multiflora_adapters.validation import ValidationRow, validate_adapter
from multiflora_platform.registry.artifacts.collector import Artifacts
from multiflora_platform.registry.artifacts.scratch import Scratch
from multiflora_platform.registry.intake import evals
from multiflora_platform.registry.jobs.runner import Progress
from multiflora_platform.registry.rows import aliases, idempotency, jobs, versions
from multiflora_platform.registry.rows import version_queries as version_views
from multiflora_platform.registry.rows.idempotency import StoredAnswer
from multiflora_platform.registry.rows.jobs import ClaimedJob, LeaseLost
from multiflora_platform.registry.rows.versions import ValidatedVersion
from multiflora_platform.registry.schemas.version_metadata import MAX_CARD_BYTES, Eval
from multiflora_platform.registry.serving.probe import Prober, probe
from multiflora_platform.registry.serving.warm_up import WarmUp
from multiflora_platform.registry.sources.resolver import Sources
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.tables import AdapterRow, VersionRow
from multiflora_platform.web.problems import InsufficientStorage, Problem, Unavailable

_VALIDATIONS_AT_ONCE = 2


@dataclass(frozen=True)
class _Refused:
    """What the report of a version that may not be served says. ours: the error, when it was our own fault."""

    rows: list[ValidationRow]
    evals: list[dict[str, Any]] | None = None
    ours: Exception | None = None


class Imports:
    """prober, answer: set when an engine is there. touched(change, name): the snapshot must follow the adapter."""

    def __init__(
        self,
        database: Database,
        artifacts: Artifacts,
        scratch: Scratch,
        sources: Sources,
        base: BaseModel,
        max_rank: int,
        touched: Callable[[Change, str], Awaitable[None]],
        warm_up: WarmUp,
    ) -> None:
        self._database = database
        self._artifacts = artifacts
        self._scratch = scratch
        self._sources = sources
        self._base = base
        self._max_rank = max_rank
        self._touched = touched
        self._warm_up = warm_up
        self._room = asyncio.Semaphore(_VALIDATIONS_AT_ONCE)
        self.prober: Prober | None = None
        self.answer: evals.Answer | None = None

    async def identify(self, folder: Path) -> AdapterManifest | None:
        """None when the files cannot be read as an adapter; validation then says why."""
        async with self._room:
            return await asyncio.to_thread(_identify, folder)

    async def run(self, claimed: ClaimedJob, progress: Progress) -> None:
        """The whole job. Raises LeaseLost, Problem, or what disks and engines raise; then nothing is decided."""
        folder = self._scratch.of_job(claimed.id)
        if not await self._is_here(claimed):
            folder = self._scratch.make(claimed.id)
            source = await self._fetch(claimed, folder, progress)
            manifest = await self.identify(folder)
            if await self._name(claimed, source, manifest, folder):
                await self._scratch.remove(claimed.id)
                return
        validated = await self._validate(claimed, folder)
        if isinstance(validated, ValidatedVersion):
            await self._accept(claimed, validated)
        else:
            await self._reject(claimed, validated)
        await self._scratch.remove(claimed.id)

    async def fail(self, claimed: ClaimedJob, error: Exception) -> None:
        """No further attempt: rejected with what went wrong. For our own fault, the client may try again."""
        theirs = isinstance(error, Problem) and error.status < 500
        message = error.detail if isinstance(error, Problem) else f"Registration failed: {error!r}."
        hint = None if theirs else f"Given up after {claimed.attempts} attempts; try again later."
        row = ValidationRow(check="source" if isinstance(error, Problem) else "internal", severity="error",
                            message=message, hint=hint)  # fmt: skip
        await self._reject(claimed, _Refused([row], ours=None if theirs else error))
        await self._scratch.remove(claimed.id)

    async def _is_here(self, claimed: ClaimedJob) -> bool:
        """Whether the files need no fetching (any more)."""
        async with self._database.read() as session:
            return (await session.get_one(VersionRow, claimed.version_id)).state == "validating"

    async def _fetch(self, claimed: ClaimedJob, folder: Path, progress: Progress) -> str:
        async def work(change: Change) -> None:
            await jobs.require_lease(change, claimed)
            version = await change.session.get_one(VersionRow, claimed.version_id)
            version.state, version.updated_at = "fetching", change.now
            change.tell("version.fetching", adapter=claimed.adapter, version=claimed.number, job=claimed.id)

        await self._database.write(claimed.actor, work)
        return await asyncio.to_thread(self._sources.fetch_remote, claimed.source, folder, progress.reach)

    async def _name(self, claimed: ClaimedJob, source: str, manifest: AdapterManifest | None, folder: Path) -> bool:
        """The version gets its pinned source and its digest; True when the adapter has this content already."""
        card = await asyncio.to_thread(read_card, folder)

        async def work(change: Change) -> bool:
            job = await jobs.require_lease(change, claimed)
            version = await change.session.get_one(VersionRow, claimed.version_id)
            version.source, version.card = source, card
            digest = manifest.digest if manifest else None
            known = digest and await versions.find_ready(change.session, claimed.adapter_id, digest, self._base.digest)
            if not known:
                version.state, version.digest, version.updated_at = "validating", digest, change.now
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
            view = await version_views.view(change.session, known, claimed.adapter)
            await self._conclude(change, job, claimed, StoredAnswer(200, view))
            return True

        return await self._database.write(claimed.actor, work)

    async def _validate(self, claimed: ClaimedJob, folder: Path) -> ValidatedVersion | _Refused:
        """Everything that is looked at before a version may be served; the artifact is stored then."""
        if not await asyncio.to_thread(folder.is_dir):
            message = "The uploaded files are gone from this server's data folder."
            return _Refused(
                [ValidationRow(check="interrupted", severity="error", message=message, hint="Upload again.")]
            )
        async with self._room:
            report = await asyncio.to_thread(validate_adapter, folder, self._base, self._max_rank)
            rows = list(report.rows)
            if not report.ok:
                return _Refused(rows)
            facts = await asyncio.to_thread(read_facts, folder, self._base)
            stored = await asyncio.to_thread(self._artifacts.store.add, folder)
        rows.append(await probe(self.prober, stored.digest))
        if rows[-1].severity == "error":
            return _Refused(rows)
        results = await self._evaluate(claimed, stored.digest, rows)
        if any(row.severity == "error" for row in rows):
            return _Refused(rows, results)
        return ValidatedVersion(stored, facts, rows, results)

    async def _evaluate(self, claimed: ClaimedJob, digest: str, rows: list[ValidationRow]) -> list[dict[str, Any]]:
        async with self._database.read() as session:
            wished = (await session.get_one(VersionRow, claimed.version_id)).evals
        if not wished:
            return []
        if self.answer is None:
            raise Unavailable("Evals need a running engine.")
        found, results = await evals.run(self.answer, digest, msgspec.convert(_wishes(wished), list[Eval]))
        rows.extend(found)
        return results

    async def _accept(self, claimed: ClaimedJob, validated: ValidatedVersion) -> None:
        async def work(change: Change) -> None:
            job = await jobs.require_lease(change, claimed)
            row = await versions.finish(change, claimed.version_id, validated, claimed.promote)
            view = await version_views.view(change.session, row, claimed.adapter)
            await self._conclude(change, job, claimed, StoredAnswer(201, view))

        if claimed.promote:  # traffic is about to move to it
            await self._warm_up.version(claimed.adapter, validated.manifest.digest)
        try:
            await self._database.write(claimed.actor, work)
        except LeaseLost:
            self._artifacts.collect_soon(validated.manifest.digest)
            raise

    async def _reject(self, claimed: ClaimedJob, refused: _Refused) -> None:
        async def work(change: Change) -> str | None:
            job = await jobs.require_lease(change, claimed)
            row = await versions.reject(change, claimed.version_id, refused.rows, refused.evals)
            answer = await rejection(change, claimed.adapter, row)
            if refused.ours is not None:
                await idempotency.forget_job(change, claimed.id)
                if isinstance(refused.ours, InsufficientStorage):
                    answer = StoredAnswer(507, {"detail": refused.ours.detail})
            await self._conclude(change, job, claimed, answer)
            return row.digest

        digest = await self._database.write(claimed.actor, work)
        if digest is not None:
            self._artifacts.collect_soon(digest)

    async def _conclude(self, change: Change, job: Any, claimed: ClaimedJob, answer: StoredAnswer) -> None:
        jobs.finish(change, job, answer)
        await self._touched(change, claimed.adapter)


async def rejection(change: Change, adapter: str, row: VersionRow) -> StoredAnswer:
    """The answer to the request whose version was rejected."""
    await change.session.flush()
    rows = await version_views.report(change.session, row.id)
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


def _wishes(stored: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the results of an earlier attempt."""
    return [{key: value for key, value in one.items() if key not in ("answer", "passed")} for one in stored]


def _identify(folder: Path) -> AdapterManifest | None:
    try:
        return read_manifest(folder)
    except AdapterError:
        return None
