"""Which versions an alias may be moved to, where evals of its adapter demand a score first. Runs no eval.

Each function works inside a transaction that its caller began.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from multiflora_platform.registry.errors import EvalGate
from multiflora_platform.storage.tables import AdapterRow, EvalRunRow, EvalSetRow


async def require_passed(session: AsyncSession, adapter: AdapterRow, alias: str, versions: Iterable[int]) -> None:
    """Raises EvalGate, naming the first eval that one of the versions has not passed."""
    for number in versions:
        gate = await closed_gate(session, adapter, alias, number)
        if gate is not None:
            raise gate


async def closed_gate(session: AsyncSession, adapter: AdapterRow, alias: str, number: int) -> EvalGate | None:
    """The newest completed run of the newest version of each eval decides; None: the version may be promoted."""
    query = select(EvalSetRow).where(EvalSetRow.adapter_id == adapter.id, EvalSetRow.min_score.is_not(None))
    for row in await session.scalars(query.order_by(EvalSetRow.name)):
        if alias not in row.aliases:
            continue
        assert row.min_score is not None, "the query asks for those that have one"
        newest = (
            select(EvalRunRow)
            .where(
                EvalRunRow.set_id == row.id,
                EvalRunRow.set_version == row.version,
                EvalRunRow.version == number,
                EvalRunRow.state == "completed",
            )
            .order_by(EvalRunRow.id.desc())
            .limit(1)
        )
        run = await session.scalar(newest)
        score = None if run is None else run.score
        if run is None or score is None or score < row.min_score:
            return _gate(adapter, alias, number, row, run)
    return None


def _gate(adapter: AdapterRow, alias: str, number: int, row: EvalSetRow, run: EvalRunRow | None) -> EvalGate:
    needed = f"eval {row.name!r} (version {row.version}) asks for {row.min_score:.2f} before {adapter.name}@{alias}"
    if run is None or run.score is None:
        detail = (
            f"Version {number} has no score yet: {needed} may serve it. Run it: "
            f"multiflora evals run {adapter.name} {row.name} --version {number}"
        )
        return EvalGate(detail, row.name, row.version, None, row.min_score or 0.0, None)
    detail = f"Version {number} scored {run.score:.2f} ({run.passed} of {run.total}): {needed} may serve it."
    return EvalGate(detail, row.name, row.version, run.score, row.min_score or 0.0, run.id)
