"""Versions read and shown: one, pages, searches, reports. Changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from multiflora_platform.registry.errors import VersionNotFound
from multiflora_platform.storage.tables import (
    LARGEST_NUMBER,
    AdapterRow,
    ReportRow,
    VersionFileRow,
    VersionLabelRow,
    VersionRow,
)
from multiflora_platform.web.etags import tagged

_REPORT_FIELDS = ("check", "severity", "message", "observed", "expected", "hint")


@dataclass(frozen=True)
class VersionQuery:
    """What a client looks for, filled by the route from the query parameters; None looks for everything."""

    adapter_ids: Sequence[int] | None = None  # within these: the route's, of what the key may see
    state: str | None = None
    digest: str | None = None
    q: str | None = None  # a part of the description
    tag: str | None = None
    dataset: str | None = None
    run: str | None = None  # the training run, as the lineage names it
    parent: str | None = None  # the number of the version it was trained further from
    deleted: bool = False  # those, too, that can be restored

    def apply(self, query: Select[VersionRow, str]) -> Select[VersionRow, str]:
        if self.adapter_ids is not None:
            query = query.where(VersionRow.adapter_id.in_(self.adapter_ids))
        for column, wanted in ((VersionRow.state, self.state), (VersionRow.digest, self.digest)):
            if wanted is not None:
                query = query.where(column == wanted)
        if self.q:
            query = query.where(VersionRow.description.icontains(self.q, autoescape=True))
        for kind in ("tag", "dataset", "run", "parent"):
            value = getattr(self, kind)
            if value is not None:
                found = select(VersionLabelRow.version_id).where(
                    VersionLabelRow.kind == kind, VersionLabelRow.value == value
                )
                query = query.where(VersionRow.id.in_(found))
        return query if self.deleted else query.where(VersionRow.deleted_at.is_(None))


async def find_ready(session: AsyncSession, adapter_id: int, digest: str, base_digest: str) -> VersionRow | None:
    query = select(VersionRow).where(
        VersionRow.adapter_id == adapter_id,
        VersionRow.digest == digest,
        VersionRow.base_digest == base_digest,
        VersionRow.state == "ready",
    )
    return (await session.scalars(query.order_by(VersionRow.number).limit(1))).first()


async def of_id(session: AsyncSession, version_id: int) -> VersionRow:
    return await session.get_one(VersionRow, version_id)


async def require(session: AsyncSession, adapter_id: int, name: str, number: int) -> VersionRow:
    """Raises VersionNotFound, also for one that was purged."""
    query = select(VersionRow).where(
        VersionRow.adapter_id == adapter_id, VersionRow.number == min(number, LARGEST_NUMBER)
    )
    version = await session.scalar(query.where(VersionRow.purged_at.is_(None)))
    if version is None:
        raise VersionNotFound(f"Adapter {name!r} has no version {number}.")
    return version


async def search(
    session: AsyncSession, wanted: VersionQuery, before: int | None, limit: int
) -> list[tuple[VersionRow, str]]:
    """(version, adapter's name), newest first: those whose id is below `before`."""
    query = (
        select(VersionRow, AdapterRow.name)
        .join(AdapterRow, AdapterRow.id == VersionRow.adapter_id)
        .where(AdapterRow.deleted_at.is_(None), VersionRow.purged_at.is_(None))
    )
    if before is not None:
        query = query.where(VersionRow.id < before)
    rows = await session.execute(wanted.apply(query).order_by(VersionRow.id.desc()).limit(limit))
    return [(version, name) for version, name in rows]


async def views(session: AsyncSession, rows: Sequence[tuple[VersionRow, str]]) -> list[dict[str, Any]]:
    """The versions as the API shows them, each with its files."""
    ids = [row.id for row, _ in rows]
    files: dict[int, dict[str, dict[str, Any]]] = {}
    query = select(VersionFileRow).where(VersionFileRow.version_id.in_(ids)).order_by(VersionFileRow.name)
    for file in await session.scalars(query):
        files.setdefault(file.version_id, {})[file.name] = {"sha256": file.sha256, "size": file.size}
    return [_view(name, row, files.get(row.id, {})) for row, name in rows]


async def view(session: AsyncSession, row: VersionRow, name: str) -> dict[str, Any]:
    return (await views(session, [(row, name)]))[0]


async def report(session: AsyncSession, version_id: int) -> list[dict[str, Any]]:
    query = select(ReportRow).where(ReportRow.version_id == version_id).order_by(ReportRow.position)
    return [{field: getattr(row, field) for field in _REPORT_FIELDS} for row in await session.scalars(query)]


def _view(name: str, row: VersionRow, files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    manifest = {key: value for key, value in (row.manifest or {}).items() if key not in ("files", "digest")}
    view = {
        "adapter": name,
        "version": row.number,
        "state": row.state,
        "digest": row.digest,
        "base_digest": row.base_digest,
        "files": files,
        "manifest": manifest or None,
        "facts": row.facts,
        "source": row.source,
        "description": row.description,
        "tags": row.tags,
        "lineage": {"parent_version": None, "training_run": None, "datasets": [], **row.lineage},
        "evals": row.evals,
        "metrics": row.metrics,
        "has_card": row.card is not None,
        "created_by": row.created_by,
        "created_at": row.created_at.isoformat(),
        "updated_at": row.updated_at.isoformat(),
        "deleted_at": row.deleted_at.isoformat() if row.deleted_at else None,
    }
    return tagged(view)
