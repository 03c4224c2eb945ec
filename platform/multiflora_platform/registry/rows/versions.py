"""The rules of a version's row while it is made (numbered, fetched, validated, ready or rejected), and of its details.

Each function works inside a transaction that its caller began. How a version ends is deleted_versions.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import delete as sql_delete
from sqlalchemy import func, select

from multiflora_adapters.facts import AdapterFacts
from multiflora_adapters.manifest import AdapterManifest
from multiflora_adapters.validation import ValidationRow
from multiflora_platform.registry.errors import EvalGate
from multiflora_platform.registry.rows import aliases, eval_gates
from multiflora_platform.registry.schemas.version_metadata import (
    Lineage,
    VersionDetails,
    VersionPatch,
    labels,
)
from multiflora_platform.registry.snapshot.snapshot import DEFAULT
from multiflora_platform.storage.database import Change
from multiflora_platform.storage.tables import (
    AdapterRow,
    ReportRow,
    VersionFileRow,
    VersionLabelRow,
    VersionRow,
)


async def begin(
    change: Change,
    adapter: AdapterRow,
    source: str,
    base_digest: str,
    details: VersionDetails,
    *,
    here: bool,
    digest: str | None = None,
    card: str | None = None,
) -> VersionRow:
    """A new number. here: the files are; otherwise they are still to be fetched."""
    adapter_id = adapter.id
    last = await change.session.scalar(select(func.max(VersionRow.number)).where(VersionRow.adapter_id == adapter_id))
    version = VersionRow(
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
        metrics=details.metrics,
        created_by=change.actor,
        created_at=change.now,
        updated_at=change.now,
    )
    change.session.add(version)
    await change.session.flush()
    label(change, version)
    change.record("version.created", f"{adapter.name}@{version.number}", adapter=adapter.name, version=version.number)
    return version


async def fetching(change: Change, version_id: int) -> None:
    """A worker has begun to fetch its files."""
    version = await change.session.get_one(VersionRow, version_id)
    version.state, version.updated_at = "fetching", change.now


def identify(change: Change, version: VersionRow, digest: str | None) -> None:
    """The files are here: validation is next. digest: None when they cannot be read as an adapter."""
    version.state, version.digest, version.updated_at = "validating", digest, change.now


@dataclass(frozen=True)
class ValidatedVersion:
    """What intake/version_checks.py found of a version that may be served; `finish` writes it to the rows."""

    manifest: AdapterManifest  # of the stored artifact
    facts: AdapterFacts  # read from the files and their layout on this base model
    rows: Sequence[ValidationRow]  # of the validation, the probe and the evals, in this order
    evals: list[dict[str, Any]]  # as the client sent them, each with its answer; [] when there were none


async def finish(change: Change, version_id: int, validated: ValidatedVersion, promote: bool) -> VersionRow:
    """Ready; the adapter's first ready version (or a promoted one) becomes its default, unless an eval forbids it."""
    manifest = validated.manifest
    version = await change.session.get_one(VersionRow, version_id)
    adapter = await change.session.get_one(AdapterRow, version.adapter_id)
    # Without a default alias `model=name` is a 404: the first version that can be served becomes it.
    earlier = (
        select(VersionRow.id).where(VersionRow.adapter_id == version.adapter_id, VersionRow.state == "ready").limit(1)
    )
    is_first = await change.session.scalar(earlier) is None
    # Not moved rather than rejected: it can be served by its number, run on the eval and promoted then.
    gate = None
    if promote or is_first:
        gate = await eval_gates.closed_gate(change.session, adapter, DEFAULT, version.number)
    _settle(change, version, "ready", [*validated.rows, *([] if gate is None else [_not_promoted(gate)])])
    version.facts = msgspec.to_builtins(validated.facts)
    version.evals = validated.evals
    version.digest = manifest.digest
    version.manifest = msgspec.to_builtins(manifest)
    for name, file in manifest.files.items():
        change.session.add(VersionFileRow(version_id=version.id, name=name, sha256=file.sha256, size=file.size))
    await change.session.flush()
    target = f"{adapter.name}@{version.number}"
    change.record("version.ready", target, adapter=adapter.name, version=version.number, digest=manifest.digest)
    if (promote or is_first) and gate is None:
        await aliases.make_default(change, adapter, version.number)
    return version


async def reject(
    change: Change, version_id: int, rows: Sequence[ValidationRow], evals: list[dict[str, Any]] | None = None
) -> VersionRow:
    """Rejected, with the rows that say why."""
    version = await change.session.get_one(VersionRow, version_id)
    _settle(change, version, "rejected", rows)
    if evals is not None:
        version.evals = evals
    adapter = await change.session.get_one(AdapterRow, version.adapter_id)
    change.record(
        "version.rejected",
        f"{adapter.name}@{version.number}",
        adapter=adapter.name,
        version=version.number,
        errors=[row.message for row in rows if row.severity == "error"],
    )
    return version


async def archive(change: Change, adapter: AdapterRow, version: VersionRow, rows: Sequence[ValidationRow]) -> None:
    """Never to be ready: its adapter is gone, or another version has its content."""
    _settle(change, version, "archived", rows)
    change.record("version.archived", f"{adapter.name}@{version.number}", adapter=adapter.name, version=version.number)


async def amend(change: Change, adapter: AdapterRow, version: VersionRow, patch: VersionPatch) -> None:
    if patch.description is not msgspec.UNSET:
        version.description = patch.description
    if patch.tags is not msgspec.UNSET:
        version.tags = list(dict.fromkeys(patch.tags))
    if patch.lineage is not msgspec.UNSET:
        version.lineage = msgspec.to_builtins(patch.lineage)
    if patch.metrics is not msgspec.UNSET:
        version.metrics = patch.metrics
    version.updated_at = change.now
    await change.session.execute(sql_delete(VersionLabelRow).where(VersionLabelRow.version_id == version.id))
    label(change, version)
    change.record("version.updated", f"{adapter.name}@{version.number}", adapter=adapter.name, version=version.number)


def label(change: Change, version: VersionRow) -> None:
    """What it is searched by, anew from its tags and lineage."""
    for kind, value in sorted(labels(version.tags, msgspec.convert(version.lineage, Lineage))):
        change.session.add(VersionLabelRow(version_id=version.id, kind=kind, value=value))


def _not_promoted(gate: EvalGate) -> ValidationRow:
    message = f"The version is ready, and `default` was not moved to it. {gate.detail}"
    return ValidationRow(check="eval-gate", severity="warning", message=message)


def _settle(change: Change, version: VersionRow, state: str, rows: Sequence[ValidationRow]) -> None:
    version.state = state
    version.updated_at = change.now
    for position, row in enumerate(rows):
        change.session.add(
            ReportRow(
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
