"""Runs as rows: queued, claimed under a lease, filled result by result, ended in one of three ways, found again.

Each function works inside a transaction or a read that its caller began. A lease is the right to fill a run; it ends by
itself, so that a run whose server was killed is resumed by the next one, behind the results that it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import and_, case, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from multiflora_platform.evals import sets
from multiflora_platform.evals.checks import EvalCase
from multiflora_platform.evals.eval_problems import EvalQueueFull, EvalRunEnded, EvalRunNotFound
from multiflora_platform.evals.schemas import CheckResult, EvalResult, EvalRun, EvalRunState, Outcome
from multiflora_platform.evals.targets import EvalTarget
from multiflora_platform.storage.busy_owners import has_places_left
from multiflora_platform.storage.database import Change
from multiflora_platform.storage.tables import AdapterRow, EvalResultRow, EvalRunRow, EvalSetRow, EvalSetVersionRow

LEASE = timedelta(seconds=30)
MAX_ATTEMPTS = 5
MAX_UNFINISHED = 100
# On all servers together: what a tenant's limits hold up leaves room for the runs of others.
AT_ONCE_OF_A_TENANT = 4
UNFINISHED = ("queued", "running")
QUEUED = "eval.run_queued"


class RunLost(Exception):
    """Another process fills the run, or it was cancelled or deleted: leave everything as it is."""


@dataclass(frozen=True)
class ClaimedRun:
    """A run that this process holds, as `claim` found it."""

    id: int
    owner: str  # the claim's own token, which the lease names; every write of it checks that
    tenant: str | None  # as which it asks; None: the administration
    model: str
    mix: dict[str, Any]
    cases: list[EvalCase]
    done: frozenset[int]  # positions of the prompts that an earlier attempt got through
    attempts: int  # since the last result, this one included


@dataclass(frozen=True)
class CaseResult:
    """Of one prompt; the runner makes it, `save` writes it."""

    position: int
    outcome: Outcome
    answer: str | None
    checks: list[CheckResult]
    seconds: float | None = None
    tokens: int | None = None


async def require_room(session: AsyncSession, adapter_id: int) -> None:
    """Raises EvalQueueFull."""
    query = select(func.count()).where(EvalRunRow.adapter_id == adapter_id, EvalRunRow.state.in_(UNFINISHED))
    if (await session.scalar(query) or 0) >= MAX_UNFINISHED:
        detail = f"{MAX_UNFINISHED} runs of this adapter have not ended; wait for them, or cancel some."
        raise EvalQueueFull(detail)


async def create(
    change: Change,
    adapter: str,
    row: EvalSetRow,
    asked: EvalSetVersionRow,
    target: EvalTarget,
    owner: str | None,
) -> EvalRunRow:
    """asked: the version of the set. owner: the tenant as which it asks."""
    run = EvalRunRow(
        adapter_id=row.adapter_id,
        set_id=row.id,
        set_version=asked.number,
        model=target.model,
        mix=target.mix,
        version=target.version,
        digest=target.digest,
        state="queued",
        owner=owner,
        total=len(asked.cases),
        passed=0,
        failed=0,
        errors=0,
        attempts=0,
        created_by=change.actor,
        created_at=change.now,
    )
    change.session.add(run)
    await change.session.flush()
    detail = {"eval": row.name, "eval_version": asked.number, "model": target.model, "run": run.id}
    change.record(QUEUED, f"{adapter}/{row.name}", adapter=adapter, **detail)
    return run


async def claimable(session: AsyncSession, now: datetime) -> bool | None:
    """Whether `claim` would find one; None: all have ended, so that none becomes free by waiting."""
    free = func.max(case((_is_free(now), 1), else_=0))
    found = await session.scalar(select(free).where(EvalRunRow.state.in_(UNFINISHED)))
    return None if found is None else found > 0


async def claim(change: Change, owner: str) -> ClaimedRun | None:
    """The run that has waited longest, that no runner holds and whose tenant has room for it; None: there is none.

    owner: this claim's own token.
    """
    query = select(EvalRunRow).where(_is_free(change.now)).order_by(EvalRunRow.id).limit(1)
    run = await change.session.scalar(query)
    if run is None:
        return None
    run.state, run.lease_owner, run.lease_until = "running", owner, change.now + LEASE
    run.attempts += 1
    run.started_at = run.started_at or change.now
    asked = await change.session.get_one(EvalSetVersionRow, (run.set_id, run.set_version))
    done = await change.session.scalars(select(EvalResultRow.position).where(EvalResultRow.run_id == run.id))
    return ClaimedRun(run.id, owner, run.owner, run.model, run.mix, sets.cases_of(asked), frozenset(done), run.attempts)


async def save(change: Change, claimed: ClaimedRun, results: Sequence[CaseResult]) -> None:
    """Results that have come; with or without any, the lease is extended. Raises RunLost."""
    run = await _held(change, claimed)
    run.lease_until = change.now + LEASE
    if results:
        # A long run outlives more ends of its servers than one that gets nowhere may.
        run.attempts = 1
    for one in results:
        change.session.add(
            EvalResultRow(
                run_id=run.id,
                position=one.position,
                outcome=one.outcome,
                # PostgreSQL's texts hold no NUL.
                answer=None if one.answer is None else one.answer.replace("\0", "\ufffd"),
                checks=msgspec.to_builtins(one.checks),
                seconds=one.seconds,
                tokens=one.tokens,
            )
        )
    run.passed += sum(one.outcome == "passed" for one in results)
    run.failed += sum(one.outcome == "failed" for one in results)
    run.errors += sum(one.outcome == "error" for one in results)


async def complete(change: Change, claimed: ClaimedRun) -> None:
    """All results are saved. Raises RunLost."""
    run = await _held(change, claimed)
    run.score = run.passed / run.total
    await _end(change, run, "completed", None)


async def fail(change: Change, claimed: ClaimedRun, reason: str) -> None:
    """Raises RunLost."""
    await _end(change, await _held(change, claimed), "failed", reason)


async def release(change: Change, claimed: ClaimedRun) -> None:
    """Back into the queue: this process ends. It has not failed, so it does not count as an attempt. Raises RunLost."""
    run = await _held(change, claimed)
    run.state, run.lease_owner, run.lease_until = "queued", None, None
    run.attempts -= 1


async def cancel(change: Change, adapter_id: int, run_id: int) -> EvalRunRow:
    """What has been answered stays. Raises EvalRunNotFound, EvalRunEnded."""
    run = await require(change.session, adapter_id, run_id)
    if run.state not in UNFINISHED:
        raise EvalRunEnded(f"Run {run_id} is {run.state} already.")
    await _end(change, run, "cancelled", f"cancelled after {run.passed + run.failed + run.errors} of {run.total}")
    return run


def run_id(text: str) -> int:
    """Of a path; what cannot be a run's number is one that does not exist."""
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise EvalRunNotFound(f"There is no run {text[:20]!r} of an eval.")
    return int(text)


async def require(session: AsyncSession, adapter_id: int, run_id: int) -> EvalRunRow:
    run = await session.get(EvalRunRow, run_id)
    if run is None or run.adapter_id != adapter_id:
        raise EvalRunNotFound(f"The adapter has no run {run_id} of an eval; its eval-runs list those that there are.")
    return run


async def page(
    session: AsyncSession, adapter_id: int, wanted: dict[str, Any], before: int, limit: int
) -> list[tuple[EvalRunRow, str]]:
    """With the names of their sets, newest first, with ids below `before`. wanted: columns' values."""
    query = (
        select(EvalRunRow, EvalSetRow.name)
        .join(EvalSetRow, EvalSetRow.id == EvalRunRow.set_id)
        .where(EvalRunRow.adapter_id == adapter_id, EvalRunRow.id < before)
        .order_by(EvalRunRow.id.desc())
        .limit(limit)
    )
    for column, value in wanted.items():
        owner = EvalSetRow if column == "name" else EvalRunRow
        query = query.where(getattr(owner, column) == value)
    return [(run, name) for run, name in await session.execute(query)]


async def set_name(session: AsyncSession, run: EvalRunRow) -> str:
    return (await session.get_one(EvalSetRow, run.set_id)).name


async def outcomes(session: AsyncSession, run_ids: Sequence[int]) -> dict[int, dict[int, Outcome]]:
    """Of each run, by the prompt's position."""
    query = select(EvalResultRow.run_id, EvalResultRow.position, EvalResultRow.outcome)
    found: dict[int, dict[int, Any]] = {run_id: {} for run_id in run_ids}
    for run_id, position, outcome in await session.execute(query.where(EvalResultRow.run_id.in_(run_ids))):
        found[run_id][position] = outcome
    return found


async def results(session: AsyncSession, run: EvalRunRow, cases: Sequence[EvalCase]) -> list[EvalResult]:
    """In the set's order. cases: of the version that was asked."""
    rows = await session.scalars(
        select(EvalResultRow).where(EvalResultRow.run_id == run.id).order_by(EvalResultRow.position)
    )
    return [_result(row, cases[row.position]) for row in rows]


def view(run: EvalRunRow, adapter: str, name: str) -> EvalRun:
    """name: of the set."""
    state: EvalRunState = run.state  # type: ignore[assignment]  # the column's values
    if state == "running" and (run.lease_until is None or run.lease_until < datetime.now(UTC)):
        state = "queued"
    return EvalRun(
        id=run.id,
        adapter=adapter,
        eval=name,
        eval_version=run.set_version,
        model=run.model,
        mix=run.mix,
        version=run.version,
        digest=run.digest,
        state=state,
        total=run.total,
        passed=run.passed,
        failed=run.failed,
        errors=run.errors,
        score=run.score,
        reason=run.reason,
        created_by=run.created_by,
        created_at=run.created_at.isoformat(),
        started_at=run.started_at.isoformat() if run.started_at else None,
        ended_at=run.ended_at.isoformat() if run.ended_at else None,
    )


def _result(row: EvalResultRow, case: EvalCase) -> EvalResult:
    return msgspec.convert(
        {
            "position": row.position,
            "name": case.name,
            "question": case.question,
            "outcome": row.outcome,
            "answer": row.answer,
            "checks": row.checks,
            "seconds": row.seconds,
            "tokens": row.tokens,
        },
        EvalResult,
    )


async def _held(change: Change, claimed: ClaimedRun) -> EvalRunRow:
    run = await change.session.get(EvalRunRow, claimed.id)
    if run is None or run.state != "running" or run.lease_owner != claimed.owner:
        raise RunLost(claimed.id)
    return run


async def _end(change: Change, run: EvalRunRow, state: str, reason: str | None) -> None:
    run.state, run.reason, run.ended_at = state, reason, change.now
    run.lease_owner = run.lease_until = None
    adapter = await change.session.get_one(AdapterRow, run.adapter_id)
    name = await set_name(change.session, run)
    detail = {"eval": name, "eval_version": run.set_version, "model": run.model, "run": run.id}
    counts = {"score": run.score, "passed": run.passed, "total": run.total}
    change.record(f"eval.run_{state}", f"{adapter.name}/{name}", adapter=adapter.name, **detail, **counts)


def _is_free(now: datetime) -> Any:
    lease_over = or_(EvalRunRow.lease_until.is_(None), EvalRunRow.lease_until < now)
    unheld = or_(EvalRunRow.state == "queued", and_(EvalRunRow.state == "running", lease_over))
    held = aliased(EvalRunRow)
    of_runs = select(held.owner).where(held.state == "running", held.lease_until >= now)
    return and_(unheld, has_places_left(EvalRunRow.owner, of_runs, AT_ONCE_OF_A_TENANT))
