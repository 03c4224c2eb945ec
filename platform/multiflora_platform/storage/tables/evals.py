"""Evals: named sets of prompts with checks, their versions, and what versions of an adapter answered to them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from multiflora_platform.storage.tables.base import Base, BigId


class EvalSetRow(Base):
    """One set by its name; which prompts it holds is in its versions."""

    __tablename__ = "eval_sets"
    __table_args__ = (UniqueConstraint("adapter_id", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"))
    name: Mapped[str] = mapped_column(String(64))
    description: Mapped[str] = mapped_column(Text)
    # The newest EvalSetVersionRow.number.
    version: Mapped[int]
    # From 0 to 1: below it no version is promoted to one of `aliases`; None: it gates nothing.
    min_score: Mapped[float | None]
    aliases: Mapped[list[str]]
    # As the audit names it.
    created_by: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class EvalSetVersionRow(Base):
    """A set's prompts with their checks, never changed; another PUT makes another version."""

    __tablename__ = "eval_set_versions"

    set_id: Mapped[int] = mapped_column(ForeignKey("eval_sets.id"), primary_key=True)
    # Counted per set from 1.
    number: Mapped[int] = mapped_column(primary_key=True)
    # As evals/schemas.py has them.
    cases: Mapped[list[Any]] = mapped_column(JSON)
    created_by: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime]


class EvalRunRow(Base):
    """One model asked one version of a set. The route writes it; the runner that holds its lease fills it."""

    __tablename__ = "eval_runs"
    __table_args__ = (Index(None, "set_id", "version"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"), index=True)
    set_id: Mapped[int] = mapped_column(ForeignKey("eval_sets.id"))
    set_version: Mapped[int]
    # As requests name it; a version is named by its number, so that a move of an alias changes no run.
    model: Mapped[str] = mapped_column(String(200))
    # Of a mix, the request's further fields; {} otherwise.
    mix: Mapped[dict[str, Any]]
    # The number of the adapter's own version; None: another adapter's, a mix or the base.
    version: Mapped[int | None]
    # Of what was asked, a mix's names all its parts; None: the base.
    digest: Mapped[str | None] = mapped_column(Text)
    # queued, running, completed, cancelled or failed.
    state: Mapped[str] = mapped_column(String(16), index=True)
    # The tenant as which it asks; None: the administration.
    owner: Mapped[str | None] = mapped_column(String(64))
    # Prompts: of the set, and with each outcome so far.
    total: Mapped[int]
    passed: Mapped[int]
    failed: Mapped[int]
    errors: Mapped[int]
    # passed / total, of a completed run.
    score: Mapped[float | None]
    # Why it failed or was cancelled.
    reason: Mapped[str | None] = mapped_column(Text)
    # How often a runner began or resumed it.
    attempts: Mapped[int]
    lease_owner: Mapped[str | None] = mapped_column(String(64))
    lease_until: Mapped[datetime | None]
    created_by: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class EvalResultRow(Base):
    """What was answered to one prompt of a run, and what each of its checks found."""

    __tablename__ = "eval_results"

    run_id: Mapped[int] = mapped_column(ForeignKey("eval_runs.id"), primary_key=True)
    # The prompt's place in the set's version.
    position: Mapped[int] = mapped_column(primary_key=True)
    # passed, failed, or error: there was no answer to look at, or no verdict.
    outcome: Mapped[str] = mapped_column(String(16))
    answer: Mapped[str | None] = mapped_column(Text)
    # {type, passed, detail} of each check; the only one of an error says what went wrong.
    checks: Mapped[list[Any]] = mapped_column(JSON)
    # From the question to the whole answer, its turns of waiting included.
    seconds: Mapped[float | None]
    # Of the answer.
    tokens: Mapped[int | None]
