"""The rules of a version's row at its end: deleted, restored, or purged down to its number.

Each function works inside a transaction that its caller began. How a version is made is versions.py's.
"""

from __future__ import annotations

from sqlalchemy import delete as sql_delete
from sqlalchemy import select

from multiflora_platform.registry.errors import NotDeleted, VersionInUse, VersionNotReady
from multiflora_platform.registry.rows import aliases
from multiflora_platform.storage.database import Change
from multiflora_platform.storage.tables import (
    AdapterRow,
    AliasRow,
    EvalResultRow,
    EvalRunRow,
    ReportRow,
    VersionFileRow,
    VersionLabelRow,
    VersionRow,
)


async def delete(change: Change, adapter: AdapterRow, version: VersionRow) -> None:
    """Out of service, kept until it is purged. Raises VersionInUse while an alias points to it."""
    if version.state not in ("ready", "rejected", "archived"):
        raise VersionNotReady(f"Version {version.number} is being made; cancel its job instead.")
    for alias in await change.session.scalars(select(AliasRow).where(AliasRow.adapter_id == adapter.id)):
        if version.number in aliases.shares_of(alias.target):
            raise VersionInUse(
                f"{adapter.name}@{alias.name} points to version {version.number}; move or delete the alias first."
            )
    if version.deleted_at is not None:
        return
    # Not ready any more, so that the snapshot leaves it out and no alias can be moved to it.
    if version.state == "ready":
        version.state = "archived"
    version.deleted_at = version.updated_at = change.now
    target = f"{adapter.name}@{version.number}"
    change.record("version.deleted", target, adapter=adapter.name, version=version.number, digest=version.digest)


async def restore(change: Change, adapter: AdapterRow, version: VersionRow) -> None:
    """As it was before it was deleted. Raises NotDeleted."""
    if version.deleted_at is None:
        raise NotDeleted(f"Version {version.number} of {adapter.name!r} is not deleted.")
    version.deleted_at = None
    version.updated_at = change.now
    # Only a version that was ready has a manifest; a rejected one comes back rejected.
    if version.manifest is not None:
        version.state = "ready"
    target = f"{adapter.name}@{version.number}"
    change.record("version.restored", target, adapter=adapter.name, version=version.number, digest=version.digest)


async def purge(change: Change, adapter: AdapterRow, version: VersionRow) -> None:
    """Only the number is left, so that it never means anything else. Raises NotDeleted."""
    if version.deleted_at is None:
        raise NotDeleted(f"Version {version.number} of {adapter.name!r} is not deleted; DELETE it first.")
    for table in (VersionFileRow, ReportRow, VersionLabelRow):
        await change.session.execute(sql_delete(table).where(table.version_id == version.id))
    of_version = (EvalRunRow.adapter_id == adapter.id, EvalRunRow.version == version.number)
    runs = select(EvalRunRow.id).where(*of_version)
    await change.session.execute(sql_delete(EvalResultRow).where(EvalResultRow.run_id.in_(runs)))
    await change.session.execute(sql_delete(EvalRunRow).where(*of_version))
    target = f"{adapter.name}@{version.number}"
    change.record("version.purged", target, adapter=adapter.name, version=version.number, digest=version.digest)
    version.purged_at = version.updated_at = change.now
    version.state, version.digest, version.manifest, version.facts, version.card = "archived", None, None, None, None
    version.description, version.tags, version.lineage, version.evals, version.metrics = "", [], {}, [], {}
