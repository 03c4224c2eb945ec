"""Adapters, their versions, and the aliases that name a version."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from multiflora_platform.storage.tables.base import Base, BigId

STATES = ("pending", "fetching", "validating", "ready", "rejected", "archived")


class AdapterRow(Base):
    """A deleted adapter keeps its row, so that history stays readable; its name is free again."""

    __tablename__ = "adapters"
    __table_args__ = (
        Index(
            "uq_adapters_name",
            "name",
            unique=True,
            sqlite_where=text("deleted_at IS NULL"),
            postgresql_where=text("deleted_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    description: Mapped[str] = mapped_column(Text)
    tags: Mapped[list[str]]
    # Shown by the playground.
    demo_prompt: Mapped[str | None] = mapped_column(Text)
    # The warm-up computes them into the prefix cache once the adapter is loaded.
    warmup_prompts: Mapped[list[Any]] = mapped_column(JSON, default=list)
    # The name of the tenant that made it; None: the administration.
    owner: Mapped[str | None] = mapped_column(String(64))
    # Digest and base of what the command line (--lora-modules) last registered under this name.
    seed: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]


class VersionRow(Base):
    """One upload or import. The job that fetches and validates it fills what is None at first."""

    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("adapter_id", "number"),
        CheckConstraint(f"state IN {STATES}", name="state"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"))
    # Counted per adapter from 1; never used twice.
    number: Mapped[int]
    # One of STATES.
    state: Mapped[str] = mapped_column(String(16), index=True)
    # SHA-256 of the manifest; None until the files are fetched.
    digest: Mapped[str | None] = mapped_column(String(64), index=True)
    # Of the base model that it was validated against.
    base_digest: Mapped[str] = mapped_column(String(64))
    # Normalised configuration and the files with their SHA-256; None until then.
    manifest: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    # "upload" or the source's address; the job pins it (a revision) once it is known.
    source: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text, default="")
    tags: Mapped[list[str]] = mapped_column(default=list)
    # As schemas/version_metadata.py has it; given with the upload or a later PATCH.
    lineage: Mapped[dict[str, Any]] = mapped_column(default=dict)
    # What its layout on this base model tells (facts.py of the adapters); written by the validation.
    facts: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    # README.md as it came.
    card: Mapped[str | None] = mapped_column(Text)
    # What is asked and, once the evaluation ran, the results.
    evals: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    # Its trainer's own measurements by name; given with the upload or a later PATCH.
    metrics: Mapped[dict[str, Any]] = mapped_column(default=dict)
    # As the audit names actors.
    created_by: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    # Archived, can be restored.
    deleted_at: Mapped[datetime | None]
    # Set by a purge: only the number is left.
    purged_at: Mapped[datetime | None]


class VersionLabelRow(Base):
    """What versions are searched by; made anew from tags and lineage whenever those are set."""

    __tablename__ = "version_labels"
    __table_args__ = (Index(None, "kind", "value"),)

    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    # tag, dataset, run or parent.
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    value: Mapped[str] = mapped_column(String(255), primary_key=True)


class VersionFileRow(Base):
    """One file of a version, as its manifest lists it."""

    __tablename__ = "version_files"

    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)


class ReportRow(Base):
    """One line of a version's validation report."""

    __tablename__ = "validation_rows"

    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    # The line's place in the report.
    position: Mapped[int] = mapped_column(primary_key=True)
    check: Mapped[str] = mapped_column("check_name", String(64))
    severity: Mapped[str] = mapped_column(String(16))
    message: Mapped[str] = mapped_column(Text)
    observed: Mapped[str | None] = mapped_column(Text)
    expected: Mapped[str | None] = mapped_column(Text)
    hint: Mapped[str | None] = mapped_column(Text)


class AliasRow(Base):
    """Where a name points. Written by each move of the alias, by a rollout, and by the first version that is ready."""

    __tablename__ = "aliases"

    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    # {"version": n} or {"split": {"n": percent}}.
    target: Mapped[dict[str, Any]]
    # The version of each of 100 buckets of users (traffic_split.py).
    layout: Mapped[list[int]]
    # Where a rollback goes: the last settled target, never a rollout's own split; None before the first move. Written
    # by each move and by the end of a rollout; a rollback leaves it, so that a second one changes nothing.
    previous: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    # The id of the AliasMoveRow that set it; ids are never used twice, so neither is a revision.
    revision: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[datetime]
    # Only admins move it.
    protected: Mapped[bool] = mapped_column(default=False)


class AliasMoveRow(Base):
    """History: one row for every change of an alias."""

    __tablename__ = "alias_history"
    __table_args__ = (Index(None, "adapter_id", "alias"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"))
    alias: Mapped[str] = mapped_column(String(64))
    # None: it was deleted.
    target: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    actor: Mapped[str] = mapped_column(String(200))
    at: Mapped[datetime]
