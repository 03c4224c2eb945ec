"""The rule that ends a rollout from outside: a client moved or deleted its alias, or deleted its adapter.

What was observed until then is added to the row by changes/rollouts.py, in the same transaction.
"""

from __future__ import annotations

from sqlalchemy import select

from multiflora_platform.storage.database import Change
from multiflora_platform.storage.tables import AdapterRow, RolloutRow

SUPERSEDED_EVENT = "rollout.superseded"


async def supersede_rollouts(change: Change, adapter: AdapterRow, alias: str | None = None) -> list[RolloutRow]:
    """Those that this ended: of one alias, or of all the adapter's."""
    running = select(RolloutRow).where(RolloutRow.adapter_id == adapter.id, RolloutRow.state == "running")
    if alias is not None:
        running = running.where(RolloutRow.alias == alias)
    ended = list(await change.session.scalars(running))
    for rollout in ended:
        rollout.state, rollout.reason, rollout.ended_at = "superseded", None, change.now
        target = f"{adapter.name}@{rollout.alias}"
        change.record(SUPERSEDED_EVENT, target, adapter=adapter.name, alias=rollout.alias, rollout=rollout.id)
    return ended
