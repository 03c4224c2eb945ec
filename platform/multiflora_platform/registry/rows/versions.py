"""Versions as rows: numbered, validated, ready or rejected. Does not know where files come from or how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import delete as sql_delete
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from multiflora_adapters.facts import AdapterFacts
from multiflora_adapters.manifest import AdapterManifest
from multiflora_adapters.validation import ValidationRow as ReportRow
from multiflora_platform.registry.errors import (
    NotDeleted,
    VersionInUse,
    VersionNotFound,
    VersionNotReady,
)
from multiflora_platform.registry.rows import aliases
from multiflora_platform.registry.schemas.version_metadata import (
    Lineage,
    VersionDetails,
    VersionPatch,
    labels,
)
from multiflora_platform.storage.database import Change
from multiflora_platform.storage.tables import (
    LARGEST_NUMBER,
    Adapter,
    Alias,
    ValidationRow,
    Version,
    VersionFile,
    VersionLabel,
)


async def begin(
    change: Change,
    adapter: Adapter,
    source: str,
    base_digest: str,
    details: VersionDetails,
    *,
    here: bool,
    digest: str | None = None,
    card: str | None = None,
) -> Version:
    """A new number. here: the files are; otherwise they are still to be fetched."""
    adapter_id = adapter.id
    last = await change.session.scalar(select(func.max(Version.number)).where(Version.adapter_id == adapter_id))
    version = Version(
        adapter_id=adapter_id,
        number=(last or 0) + 1,
        state="validating" if here else "pending",
        digest=digest,
        base_digest=base_digest,
        source=source,
        description=details.description,
        tags=list(dict.fromkeys(details.tags)),
        lineage=msgspec.to_builtins(details.lineage),
        card=card,
        evals=msgspec.to_builtins(details.evals),
        created_by=change.actor,
        created_at=change.now,
        updated_at=change.now,
    )
    change.session.add(version)
    await change.session.flush()
    label(change, version)
    change.record("version.created", f"{adapter.name}@{version.number}", adapter=adapter.name, version=version.number)
    return version


@dataclass(frozen=True)
class Judged:
    """What validation, probe and evals found of a version that may be served."""

    manifest: AdapterManifest
    facts: AdapterFacts
    rows: Sequence[ReportRow]
    evals: list[dict[str, Any]]


async def finish(change: Change, version_id: int, judged: Judged, promote: bool) -> Version:
    """Ready; the adapter's first ready version (or a promoted one) becomes its default."""
    manifest = judged.manifest
    version = await change.session.get_one(Version, version_id)
    adapter = await change.session.get_one(Adapter, version.adapter_id)
    earlier = select(Version.id).where(Version.adapter_id == version.adapter_id, Version.state == "ready").limit(1)
    is_first = await change.session.scalar(earlier) is None
    _settle(change, version, "ready", judged.rows)
    version.facts = msgspec.to_builtins(judged.facts)
    version.evals = judged.evals
    version.digest = manifest.digest
    version.manifest = msgspec.to_builtins(manifest)
    for name, file in manifest.files.items():
        change.session.add(VersionFile(version_id=version.id, name=name, sha256=file.sha256, size=file.size))
    await change.session.flush()
    target = f"{adapter.name}@{version.number}"
    change.record("version.ready", target, adapter=adapter.name, version=version.number, digest=manifest.digest)
    if promote or is_first:
        await aliases.make_default(change, adapter, version.number)
    return version


async def reject(
    change: Change, version_id: int, rows: Sequence[ReportRow], evals: list[dict[str, Any]] | None = None
) -> Version:
    """Rejected, with the rows that say why."""
    version = await change.session.get_one(Version, version_id)
    _settle(change, version, "rejected", rows)
    if evals is not None:
        version.evals = evals
    adapter = await change.session.get_one(Adapter, version.adapter_id)
    change.record(
        "version.rejected",
        f"{adapter.name}@{version.number}",
        adapter=adapter.name,
        version=version.number,
        errors=[row.message for row in rows if row.severity == "error"],
    )
    return version


async def archive(change: Change, adapter: Adapter, version: Version, rows: Sequence[ReportRow]) -> None:
    """Never to be ready: its adapter is gone, or another version has its content."""
    _settle(change, version, "archived", rows)
    change.record("version.archived", f"{adapter.name}@{version.number}", adapter=adapter.name, version=version.number)


async def delete(change: Change, adapter: Adapter, version: Version) -> None:
    """Out of service, kept until it is purged. Raises VersionInUse while an alias points to it."""
    if version.state not in ("ready", "rejected", "archived"):
        raise VersionNotReady(f"Version {version.number} is being made; cancel its job instead.")
    for alias in await change.session.scalars(select(Alias).where(Alias.adapter_id == adapter.id)):
        if version.number in aliases.shares_of(alias.target):
            raise VersionInUse(
                f"{adapter.name}@{alias.name} points to version {version.number}; move or delete the alias first."
            )
    if version.deleted_at is not None:
        return
    if version.state == "ready":
        version.state = "archived"
    version.deleted_at = version.updated_at = change.now
    target = f"{adapter.name}@{version.number}"
    change.record("version.deleted", target, adapter=adapter.name, version=version.number, digest=version.digest)


async def restore(change: Change, adapter: Adapter, version: Version) -> None:
    """As it was before it was deleted. Raises NotDeleted."""
    if version.deleted_at is None:
        raise NotDeleted(f"Version {version.number} of {adapter.name!r} is not deleted.")
    version.deleted_at = None
    version.updated_at = change.now
    if version.manifest is not None:
        version.state = "ready"
    target = f"{adapter.name}@{version.number}"
    change.record("version.restored", target, adapter=adapter.name, version=version.number, digest=version.digest)


async def purge(change: Change, adapter: Adapter, version: Version) -> None:
    """Only the number is left, so that it never means anything else. Raises NotDeleted."""
    if version.deleted_at is None:
        raise NotDeleted(f"Version {version.number} of {adapter.name!r} is not deleted; DELETE it first.")
    for table in (VersionFile, ValidationRow, VersionLabel):
        await change.session.execute(sql_delete(table).where(table.version_id == version.id))
    target = f"{adapter.name}@{version.number}"
    change.record("version.purged", target, adapter=adapter.name, version=version.number, digest=version.digest)
    version.purged_at = version.updated_at = change.now
    version.state, version.digest, version.manifest, version.facts, version.card = "archived", None, None, None, None
    version.description, version.tags, version.lineage, version.evals = "", [], {}, []


async def amend(change: Change, adapter: Adapter, version: Version, patch: VersionPatch) -> None:
    if patch.description is not msgspec.UNSET:
        version.description = patch.description
    if patch.tags is not msgspec.UNSET:
        version.tags = list(dict.fromkeys(patch.tags))
    if patch.lineage is not msgspec.UNSET:
        version.lineage = msgspec.to_builtins(patch.lineage)
    version.updated_at = change.now
    await change.session.execute(sql_delete(VersionLabel).where(VersionLabel.version_id == version.id))
    label(change, version)
    change.record("version.updated", f"{adapter.name}@{version.number}", adapter=adapter.name, version=version.number)


def label(change: Change, version: Version) -> None:
    """What it is searched by, anew from its tags and lineage."""
    for kind, value in sorted(labels(version.tags, msgspec.convert(version.lineage, Lineage))):
        change.session.add(VersionLabel(version_id=version.id, kind=kind, value=value))


async def find_ready(session: AsyncSession, adapter_id: int, digest: str, base_digest: str) -> Version | None:
    query = select(Version).where(
        Version.adapter_id == adapter_id,
        Version.digest == digest,
        Version.base_digest == base_digest,
        Version.state == "ready",
    )
    return (await session.scalars(query.order_by(Version.number).limit(1))).first()


async def of_id(session: AsyncSession, version_id: int) -> Version:
    return await session.get_one(Version, version_id)


async def require(session: AsyncSession, adapter_id: int, name: str, number: int) -> Version:
    """Raises VersionNotFound, also for one that was purged."""
    query = select(Version).where(Version.adapter_id == adapter_id, Version.number == min(number, LARGEST_NUMBER))
    version = await session.scalar(query.where(Version.purged_at.is_(None)))
    if version is None:
        raise VersionNotFound(f"Adapter {name!r} has no version {number}.")
    return version


def _settle(change: Change, version: Version, state: str, rows: Sequence[ReportRow]) -> None:
    version.state = state
    version.updated_at = change.now
    for position, row in enumerate(rows):
        change.session.add(
            ValidationRow(
                version_id=version.id,
                position=position,
                check=row.check[:64],
                severity=row.severity,
                message=row.message,
                observed=row.observed,
                expected=row.expected,
                hint=row.hint,
            )
        )
