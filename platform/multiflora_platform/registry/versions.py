"""Versions as rows: numbered, validated, ready or rejected; and shown. Does not know where files come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from multiflora_adapters.manifest import AdapterManifest
from multiflora_adapters.validation import ValidationRow as ReportRow
from multiflora_platform.registry import aliases
from multiflora_platform.registry.database import Change
from multiflora_platform.registry.errors import AdapterNotFound, VersionNotFound
from multiflora_platform.registry.tables import LARGEST_NUMBER, Adapter, ValidationRow, Version, VersionFile

UNFINISHED = ("pending", "fetching", "validating")


async def begin(change: Change, adapter_id: int, source: str, base_digest: str) -> Version:
    """A new number, in state validating. Raises AdapterNotFound when the adapter was deleted meanwhile."""
    adapter = await _live(change, adapter_id)
    if adapter is None:
        raise AdapterNotFound("The adapter was deleted while its version was being made.")
    last = await change.session.scalar(select(func.max(Version.number)).where(Version.adapter_id == adapter_id))
    version = Version(
        adapter_id=adapter_id,
        number=(last or 0) + 1,
        state="validating",
        base_digest=base_digest,
        source=source,
        created_by=change.actor,
        created_at=change.now,
        updated_at=change.now,
    )
    change.session.add(version)
    await change.session.flush()
    change.record("version.created", f"{adapter.name}@{version.number}", adapter=adapter.name, version=version.number)
    return version


async def finish(
    change: Change,
    version_id: int,
    manifest: AdapterManifest,
    rows: Sequence[ReportRow],
    promote: bool,
) -> Version:
    """Ready; the adapter's first ready version (or a promoted one) becomes its default.

    A version whose adapter was deleted meanwhile is archived instead.
    """
    version = await change.session.get_one(Version, version_id)
    adapter = await _live(change, version.adapter_id)
    earlier = select(Version.id).where(Version.adapter_id == version.adapter_id, Version.state == "ready").limit(1)
    is_first = await change.session.scalar(earlier) is None
    _settle(change, version, "ready" if adapter else "archived", rows)
    version.digest = manifest.digest
    version.manifest = msgspec.to_builtins(manifest)
    for name, file in manifest.files.items():
        change.session.add(VersionFile(version_id=version.id, name=name, sha256=file.sha256, size=file.size))
    await change.session.flush()
    if adapter is not None:
        change.record(
            "version.ready",
            f"{adapter.name}@{version.number}",
            adapter=adapter.name,
            version=version.number,
            digest=manifest.digest,
        )
        if promote or is_first:
            await aliases.make_default(change, adapter, version.number)
    return version


async def reject(change: Change, version_id: int, rows: Sequence[ReportRow], digest: str | None) -> Version:
    """Rejected, with the rows that say why. digest: of what was refused, where it could be read."""
    version = await change.session.get_one(Version, version_id)
    _settle(change, version, "rejected", rows)
    version.digest = digest
    adapter = await change.session.get_one(Adapter, version.adapter_id)
    change.record(
        "version.rejected",
        f"{adapter.name}@{version.number}",
        adapter=adapter.name,
        version=version.number,
        errors=[row.message for row in rows if row.severity == "error"],
    )
    return version


async def reject_unfinished(change: Change) -> None:
    """Versions that a stopped server was making: their files were in its scratch folder and are gone."""
    row = ReportRow(
        check="interrupted",
        severity="error",
        message="The server stopped while this version was being made.",
        hint="Upload it again.",
    )
    stuck = select(Version.id).where(Version.state.in_(UNFINISHED))
    for version_id in list(await change.session.scalars(stuck)):
        await reject(change, version_id, [row], None)


async def find_ready(session: AsyncSession, adapter_id: int, digest: str, base_digest: str) -> Version | None:
    query = select(Version).where(
        Version.adapter_id == adapter_id,
        Version.digest == digest,
        Version.base_digest == base_digest,
        Version.state == "ready",
    )
    return (await session.scalars(query.order_by(Version.number).limit(1))).first()


async def require(session: AsyncSession, adapter_id: int, name: str, number: int) -> Version:
    query = select(Version).where(Version.adapter_id == adapter_id, Version.number == min(number, LARGEST_NUMBER))
    version = await session.scalar(query)
    if version is None:
        raise VersionNotFound(f"Adapter {name!r} has no version {number}.")
    return version


async def page(session: AsyncSession, adapter_id: int, before: int, limit: int) -> list[Version]:
    """Newest first, numbers below `before`."""
    query = select(Version).where(Version.adapter_id == adapter_id, Version.number < before)
    return list(await session.scalars(query.order_by(Version.number.desc()).limit(limit)))


async def views(session: AsyncSession, name: str, rows: Sequence[Version]) -> list[dict[str, Any]]:
    """The versions as the API shows them, each with its files."""
    ids = [row.id for row in rows]
    files: dict[int, dict[str, dict[str, Any]]] = {}
    query = select(VersionFile).where(VersionFile.version_id.in_(ids)).order_by(VersionFile.name)
    for file in await session.scalars(query):
        files.setdefault(file.version_id, {})[file.name] = {"sha256": file.sha256, "size": file.size}
    return [_view(name, row, files.get(row.id, {})) for row in rows]


async def report(session: AsyncSession, version_id: int) -> list[dict[str, Any]]:
    query = select(ValidationRow).where(ValidationRow.version_id == version_id).order_by(ValidationRow.position)
    fields = ("check", "severity", "message", "observed", "expected", "hint")
    return [{field: getattr(row, field) for field in fields} for row in await session.scalars(query)]


def _view(name: str, row: Version, files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    manifest = {key: value for key, value in (row.manifest or {}).items() if key not in ("files", "digest")}
    return {
        "adapter": name,
        "version": row.number,
        "state": row.state,
        "digest": row.digest,
        "base_digest": row.base_digest,
        "files": files,
        "manifest": manifest or None,
        "source": row.source,
        "created_by": row.created_by,
        "created_at": row.created_at.isoformat(),
        "updated_at": row.updated_at.isoformat(),
    }


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


async def _live(change: Change, adapter_id: int) -> Adapter | None:
    query = select(Adapter).where(Adapter.id == adapter_id, Adapter.deleted_at.is_(None))
    return await change.session.scalar(query)
