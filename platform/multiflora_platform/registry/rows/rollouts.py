"""The rules of a rollout's row: begun on an alias of one version, adjusted, and ended in one of four ways.

Each function works inside a transaction that its caller began (changes/rollouts.py).
"""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from multiflora_platform.registry.errors import RolloutConflict, RolloutNotFound
from multiflora_platform.registry.rows import adapters as catalog
from multiflora_platform.registry.rows import aliases, eval_gates
from multiflora_platform.registry.rows.aliases import MovePrecondition
from multiflora_platform.registry.schemas.rollouts import BOUNDS, NewRollout
from multiflora_platform.storage.database import Change
from multiflora_platform.storage.tables import AdapterRow, RolloutRow
from multiflora_platform.web.etags import etag_of
from multiflora_platform.web.problems import InvalidRequest

# Of rollouts that began before there were any.
_NO_STEPS = {"steps": [], "step_seconds": 300.0}
End = Literal["promoted", "rolled_back", "aborted"]


async def start(change: Change, name: str, alias: str, body: NewRollout, precondition: MovePrecondition) -> RolloutRow:
    """Raises RolloutConflict, and what moving an alias raises."""
    adapter = await catalog.require(change.session, name)
    row = await aliases.require(change, adapter, alias)
    precondition.check_alias(alias, row)
    if await running(change.session, adapter.id, alias) is not None:
        raise RolloutConflict(f"A rollout of {name}@{alias} is running; promote or abort it first.")
    stable = row.target.get("version")
    if stable is None:
        raise RolloutConflict(f"{name}@{alias} is split already; point it to one version first.")
    if stable == body.candidate:
        raise InvalidRequest(f"{name}@{alias} is at version {stable} already.", pointer="/candidate")
    rollout = RolloutRow(
        adapter_id=adapter.id,
        alias=alias,
        stable=stable,
        candidate=body.candidate,
        percent=body.first_percent,
        shadow_percent=body.shadow_percent,
        bounds={bound: getattr(body, bound) for bound in BOUNDS},
        why=body.why,
        state="running",
        created_by=change.actor,
        created_at=change.now,
    )
    await aliases.require_ready(change, adapter, {body.candidate: 100})
    row.previous = {"version": stable}
    if rollout.percent:
        await aliases.move(change, adapter, alias, _target(rollout))
    change.session.add(rollout)
    await change.session.flush()
    _record(change, "started", name, rollout, percent=rollout.percent, shadow_percent=body.shadow_percent, why=body.why)
    return rollout


async def adjust(
    change: Change, name: str, alias: str, fields: dict[str, Any], precondition: MovePrecondition
) -> RolloutRow:
    """fields: of RolloutPatch. Raises RolloutNotFound."""
    adapter = await catalog.require(change.session, name)
    rollout = await require(change, adapter, alias, precondition)
    before = _target(rollout)
    bounds = {bound: fields[bound] for bound in BOUNDS if bound in fields}
    rollout.bounds = {**_NO_STEPS, **rollout.bounds, **bounds}
    rollout.reason = None
    for field in ("percent", "shadow_percent"):
        setattr(rollout, field, fields.get(field, getattr(rollout, field)))
    if _target(rollout) != before:
        await aliases.move(change, adapter, alias, _target(rollout))
    _record(change, "adjusted", name, rollout, **fields)
    return rollout


async def step(change: Change, adapter: AdapterRow, rollout: RolloutRow) -> bool:
    """To the next of its steps; False when it has been through all of them."""
    higher = [percent for percent in rollout.bounds.get("steps", ()) if percent > rollout.percent]
    if not higher:
        return False
    rollout.percent = higher[0]
    await aliases.move(change, adapter, rollout.alias, _target(rollout))
    _record(change, "stepped", adapter.name, rollout, percent=rollout.percent)
    return True


async def finish(
    change: Change, adapter: AdapterRow, rollout: RolloutRow, end: End, reason: str | None, observed: dict[str, Any]
) -> None:
    """The alias goes to the candidate when it is promoted, otherwise to the stable version alone. A rollback goes to
    the stable version either way: never to the rollout's split, and not to a candidate that was condemned.

    Raises EvalGate.
    """
    version = rollout.candidate if end == "promoted" else rollout.stable
    if end == "promoted":
        await eval_gates.require_passed(change.session, adapter, rollout.alias, [version])
    row = await aliases.require(change, adapter, rollout.alias)
    if row.target != {"version": version}:
        await aliases.move(change, adapter, rollout.alias, {"version": version})
    row.previous = {"version": rollout.stable}
    rollout.state, rollout.reason, rollout.observed, rollout.ended_at = end, reason, observed, change.now
    _record(change, end, adapter.name, rollout, reason=reason)


async def require(change: Change, adapter: AdapterRow, alias: str, precondition: MovePrecondition) -> RolloutRow:
    """The running one. Raises RolloutNotFound, and what the precondition does."""
    row = await aliases.require(change, adapter, alias)
    rollout = await running(change.session, adapter.id, alias)
    precondition.check_alias(alias, row, *([etag_of(state_of(rollout, adapter.name))] if rollout else ()))
    if rollout is None:
        raise RolloutNotFound(f"No rollout of {adapter.name}@{alias} is running.")
    return rollout


def state_of(rollout: RolloutRow, adapter: str) -> dict[str, Any]:
    """What has been decided about it, as the API shows it; without what was observed."""
    return {
        "id": rollout.id,
        "adapter": adapter,
        "alias": rollout.alias,
        "stable": rollout.stable,
        "candidate": rollout.candidate,
        "percent": rollout.percent,
        "shadow_percent": rollout.shadow_percent,
        **_NO_STEPS,
        **rollout.bounds,
        "state": rollout.state,
        "reason": rollout.reason,
        "why": rollout.why,
        "created_by": rollout.created_by,
        "created_at": rollout.created_at.isoformat(),
        "ended_at": rollout.ended_at.isoformat() if rollout.ended_at else None,
    }


async def page(session: AsyncSession, adapter_id: int, alias: str, before: int, limit: int) -> list[RolloutRow]:
    """Rollouts of the alias with ids below `before`, newest first."""
    query = select(RolloutRow).where(
        RolloutRow.adapter_id == adapter_id, RolloutRow.alias == alias, RolloutRow.id < before
    )
    return list(await session.scalars(query.order_by(RolloutRow.id.desc()).limit(limit)))


async def page_of_all(
    session: AsyncSession, state: str | None, before: int, limit: int
) -> list[tuple[RolloutRow, str]]:
    """As `page`, of all adapters that there are, with their names."""
    query = select(RolloutRow, AdapterRow.name).join(AdapterRow, AdapterRow.id == RolloutRow.adapter_id)
    query = query.where(RolloutRow.id < before, AdapterRow.deleted_at.is_(None))
    if state is not None:
        query = query.where(RolloutRow.state == state)
    rows = await session.execute(query.order_by(RolloutRow.id.desc()).limit(limit))
    return [(rollout, name) for rollout, name in rows]


async def require_one(session: AsyncSession, adapter_id: int, alias: str, rollout: int) -> RolloutRow:
    """Raises RolloutNotFound."""
    row = await session.get(RolloutRow, rollout)
    if row is None or (row.adapter_id, row.alias) != (adapter_id, alias):
        raise RolloutNotFound(f"{alias[:80]!r} has had no rollout {rollout}.")
    return row


async def running(session: AsyncSession, adapter_id: int, alias: str) -> RolloutRow | None:
    query = select(RolloutRow).where(
        RolloutRow.adapter_id == adapter_id, RolloutRow.alias == alias, RolloutRow.state == "running"
    )
    return await session.scalar(query)


def _target(rollout: RolloutRow) -> dict[str, Any]:
    if not rollout.percent:
        return {"version": rollout.stable}
    return {"split": {str(rollout.stable): 100 - rollout.percent, str(rollout.candidate): rollout.percent}}


def _record(change: Change, verb: str, name: str, rollout: RolloutRow, **detail: Any) -> None:
    parts = {"alias": rollout.alias, "rollout": rollout.id, "stable": rollout.stable, "candidate": rollout.candidate}
    change.record(f"rollout.{verb}", f"{name}@{rollout.alias}", adapter=name, **parts, **detail)
