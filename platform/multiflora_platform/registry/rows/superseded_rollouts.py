"""The rule that ends a rollout from outside: a client moved or deleted its alias, or deleted its adapter."""

from __future__ import annotations

from sqlalchemy import select

from multiflora_platform.storage.database import Change
from multiflora_platform.storage.tables import AdapterRow, RolloutRow


async def supersede_rollouts(change: Change, adapter: AdapterRow, alias: str | None = None) -> None:
    """Of one alias, or of all the adapter's."""
    running = select(RolloutRow).where(RolloutRow.adapter_id == adapter.id, RolloutRow.state == "running")
    if alias is not None:
        running = running.where(RolloutRow.alias == alias)
    for rollout in await change.session.scalars(running):
        rollout.state, rollout.ended_at = "superseded", change.now
        target = f"{adapter.name}@{rollout.alias}"
        change.record("rollout.superseded", target, adapter=adapter.name, alias=rollout.alias, rollout=rollout.id)
