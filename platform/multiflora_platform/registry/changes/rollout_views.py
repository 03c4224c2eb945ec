"""Rollouts as the API shows them: what was decided, what was observed, the pairs that differed. Changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from multiflora_platform.registry.changes.rollout_observations import ARMS, Observations
from multiflora_platform.registry.changes.rollout_pairs import KeptPairs
from multiflora_platform.registry.changes.rollout_timeline import NOTHING_SEEN
from multiflora_platform.registry.errors import RolloutNotFound
from multiflora_platform.registry.rows import rollouts
from multiflora_platform.registry.schemas.rollouts import (
    Rollout,
    RolloutPage,
    RolloutPairPage,
    RolloutState,
    RolloutTimeline,
)
from multiflora_platform.registry.snapshot.store import SnapshotStore
from multiflora_platform.storage.database import Database
from multiflora_platform.storage.tables import LARGEST_NUMBER, RolloutRow
from multiflora_platform.web.etags import etag_of
from multiflora_platform.web.pagination import encode_token


class RolloutViews:
    """One method for each request that reads."""

    def __init__(
        self,
        database: Database,
        snapshots: SnapshotStore,
        seen: Callable[[RolloutRow], Observations | None],
        pairs: KeptPairs | None,
    ) -> None:
        """seen: what was observed of a running rollout. pairs: None where texts are not kept."""
        self._database = database
        self._snapshots = snapshots
        self._seen = seen
        self._pairs = pairs

    async def page(self, name: str, alias: str, before: int, limit: int) -> RolloutPage:
        """The newest first, with ids below `before`."""
        entry = self._snapshots.adapter(name)
        async with self._database.read() as session:
            rows = await rollouts.page(session, entry.id, alias, before, limit + 1)
        return self._page([(row, name) for row in rows], limit)

    async def page_of_all(self, state: RolloutState | None, before: int, limit: int) -> RolloutPage:
        """As `page`, of all adapters; state: None for any."""
        async with self._database.read() as session:
            rows = await rollouts.page_of_all(session, state, before, limit + 1)
        return self._page(rows, limit)

    async def pairs_page(
        self, name: str, alias: str, rollout: int, tenant: str | None, before: int, limit: int
    ) -> RolloutPairPage:
        """tenant: whose; None: everybody's. Raises RolloutNotFound."""
        entry = self._snapshots.adapter(name)
        async with self._database.read() as session:
            await rollouts.require_one(session, entry.id, alias, rollout)
        found = [] if self._pairs is None else self._pairs.page(rollout, tenant, before, limit + 1)
        token = encode_token(str(found[limit - 1].id)) if len(found) > limit else None
        return RolloutPairPage(kept=self._pairs is not None, items=found[:limit], next_page_token=token)

    async def newest(self, name: str, alias: str) -> Rollout:
        """The running one, or the last that ran. Raises RolloutNotFound."""
        page = await self.page(name, alias, LARGEST_NUMBER, 1)
        if not page.items:
            raise RolloutNotFound(f"There has been no rollout of {name}@{alias[:80]}.")
        return page.items[0]

    async def timeline(self, name: str, alias: str, rollout: int) -> RolloutTimeline:
        """Until now, or until its end. Raises RolloutNotFound."""
        entry = self._snapshots.adapter(name)
        async with self._database.read() as session:
            row = await rollouts.require_one(session, entry.id, alias, rollout)
        if row.observed is not None:
            kept = row.observed.get("timeline")  # rollouts that ended before there were any have none
            return NOTHING_SEEN if kept is None else msgspec.convert(kept, RolloutTimeline)
        seen = self._seen(row)
        return NOTHING_SEEN if seen is None else seen.timeline(row.bounds, time.time())

    def _page(self, rows: list[tuple[RolloutRow, str]], limit: int) -> RolloutPage:
        token = encode_token(str(rows[limit - 1][0].id)) if len(rows) > limit else None
        items = [shown(name, row, self._seen(row)) for row, name in rows[:limit]]
        return RolloutPage(items=items, next_page_token=token)


def shown(name: str, row: RolloutRow, seen: Observations | None) -> Rollout:
    """name: of its adapter. seen: what was observed, while it runs."""
    observed = row.observed or (seen.arms if seen is not None else {})
    state = rollouts.state_of(row, name)
    fields = {f"{arm}_observed": observed.get(arm) for arm in ARMS}
    return msgspec.convert({**state, **fields, "etag": etag_of(state, fields)}, Rollout)
