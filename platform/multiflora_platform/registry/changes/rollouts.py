"""Transactions on a rollout: one for each change; what was observed meanwhile, and turning back by itself.

The rules are in rows/rollouts.py.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from multiflora_platform.registry.changes.rollout_observations import Observations, RequestOutcome
from multiflora_platform.registry.changes.rollout_pairs import Asked, KeptPairs
from multiflora_platform.registry.changes.rollout_views import shown
from multiflora_platform.registry.errors import EvalGate
from multiflora_platform.registry.rows import adapters as catalog
from multiflora_platform.registry.rows import rollouts
from multiflora_platform.registry.rows.aliases import MovePrecondition
from multiflora_platform.registry.rows.superseded_rollouts import SUPERSEDED_EVENT
from multiflora_platform.registry.schemas.rollouts import NewRollout, Rollout
from multiflora_platform.registry.serving.warm_up import WarmUp
from multiflora_platform.registry.snapshot.snapshot import RolloutEntry
from multiflora_platform.registry.snapshot.store import SnapshotStore
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.tables import AdapterRow, RolloutRow

_log = logging.getLogger(__name__)
_ACTOR = "system/rollout"
# How long a step that an eval or the database has held up waits before it is tried again.
_AGAIN_SECONDS = 10.0


class RolloutChanges:
    """Observations are this process's own: of two servers on one database, each judges what it has seen."""

    def __init__(
        self, database: Database, snapshots: SnapshotStore, warm_up: WarmUp, pairs: KeptPairs | None = None
    ) -> None:
        """pairs: None where texts are not kept."""
        self.pairs = pairs
        self._database = database
        self._snapshots = snapshots
        self._warm_up = warm_up
        self._observations: dict[int, Observations] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # Of the running ones whose step has its requests and not yet its time, by id.
        self._timers: dict[int, asyncio.TimerHandle] = {}
        database.before_commit.append(self._keep_evidence)

    async def start(
        self, name: str, alias: str, body: NewRollout, precondition: MovePrecondition, actor: str
    ) -> Rollout:
        """The candidate is warm before its first request. Raises RolloutConflict, CommandFailed, and as put_alias."""
        self._snapshots.adapter(name)
        await self._warm_up.before_move(name, alias, [body.candidate])

        async def work(change: Change) -> Rollout:
            row = await rollouts.start(change, name, alias, body, precondition)
            await self._snapshots.touch(change, name)
            return shown(name, row, self.seen(row.id))

        return await self._database.write(actor, work)

    async def adjust(
        self, name: str, alias: str, fields: dict[str, Any], precondition: MovePrecondition, actor: str
    ) -> Rollout:
        async def work(change: Change) -> Rollout:
            row = await rollouts.adjust(change, name, alias, fields, precondition)
            await self._snapshots.touch(change, name)
            return shown(name, row, self.seen(row.id))

        return await self._database.write(actor, work)

    async def finish(
        self, name: str, alias: str, end: rollouts.End, precondition: MovePrecondition, actor: str
    ) -> Rollout:
        """By hand. Raises RolloutNotFound."""

        async def work(change: Change) -> Rollout:
            adapter = await catalog.require(change.session, name)
            row = await rollouts.require(change, adapter, alias, precondition)
            evidence = self._evidence(row)
            await self._finish(change, adapter, row, end, None, evidence)
            return shown(name, row, self.seen(row.id))

        return await self._database.write(actor, work)

    def observe(self, admitted: RolloutEntry, version: int, outcome: RequestOutcome) -> None:
        """One request through the alias has ended; the verdict on the candidate is executed in the background.

        admitted: the rollout as it was when the request was admitted; it is judged as it is now.
        """
        rollout = self._present(admitted)
        if rollout is None:
            return
        seen = self.observations(rollout)
        (seen.candidate if version == rollout.candidate else seen.stable).outcomes.append(outcome)
        seen.note(rollout.bounds, time.time())
        if version == rollout.candidate:
            if admitted.percent == rollout.percent:
                seen.count_step(rollout.percent, time.monotonic())
            self._judge(rollout, seen)

    def observe_shadow_refusal(self, admitted: RolloutEntry) -> None:
        """The engine could not load the candidate for a shadow run. admitted: as in `observe`."""
        rollout = self._present(admitted)
        if rollout is None:
            return
        seen = self.observations(rollout)
        seen.candidate.outcomes.append(RequestOutcome(ok=False, seconds=0.0, refused=True))
        self._judge(rollout, seen)

    def observe_pair(
        self, rollout: RolloutEntry, asked: Asked, stable: Sequence[int], candidate: Sequence[int]
    ) -> None:
        """Token ids of two answers that should be equal."""
        if self.pairs is not None and self._present(rollout) is not None:
            self.pairs.add(rollout, asked(), stable, candidate)

    def candidate_digest(self, rollout: RolloutEntry) -> str | None:
        """None when the adapter or its candidate cannot be served any more."""
        entry = self._snapshots.snapshot.adapters.get(rollout.adapter)
        return entry.digests.get(rollout.candidate) if entry else None

    def seen(self, rollout_id: int) -> Observations | None:
        """Of a running one; None: nothing yet, in this process."""
        return self._observations.get(rollout_id)

    def observations(self, rollout: RolloutEntry) -> Observations:
        """Of a rollout that has ended: some that nothing reads, so that a late request changes no evidence."""
        if self._present(rollout) is None:
            return Observations()
        if rollout.id not in self._observations:
            # Those that another process on this database ended; this one's were freed with their end.
            live = {running.id for name in self._snapshots.snapshot.adapters for running in self._running(name)}
            self._observations = {key: seen for key, seen in self._observations.items() if key in live}
            self._observations[rollout.id] = Observations()
        return self._observations[rollout.id]

    async def close(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for timer in self._timers.values():
            timer.cancel()

    def _present(self, rollout: RolloutEntry) -> RolloutEntry | None:
        """With the shares and bounds that it has now; None when it has ended."""
        return next((running for running in self._running(rollout.adapter) if running.id == rollout.id), None)

    def _running(self, adapter: str) -> list[RolloutEntry]:
        entry = self._snapshots.snapshot.adapters.get(adapter)
        aliases = entry.aliases.values() if entry is not None else ()
        return [alias.rollout for alias in aliases if alias.rollout is not None]

    def _judge(self, rollout: RolloutEntry, seen: Observations) -> None:
        if any(task.get_name() == str(rollout.id) for task in self._tasks):
            return  # a decision about it is being executed
        reason = seen.verdict(rollout)
        left = None if reason is not None else seen.step_left(rollout, time.monotonic())
        if reason is not None:
            # What the verdict rests on, before requests that end meanwhile change the counts.
            self._begin(rollout, partial(self._roll_back, rollout, reason, seen.evidence(rollout.bounds, time.time())))
        elif left is not None and left <= 0:
            self._begin(rollout, partial(self._step, rollout, seen))
        elif left is not None:
            self._judge_in(left, rollout)

    def _judge_in(self, seconds: float, rollout: RolloutEntry) -> None:
        if timer := self._timers.pop(rollout.id, None):
            timer.cancel()
        loop = asyncio.get_running_loop()
        self._timers[rollout.id] = loop.call_later(seconds, self._judge_again, rollout)

    def _judge_again(self, rollout: RolloutEntry) -> None:
        """Without waiting for its next request."""
        self._timers.pop(rollout.id, None)
        present = self._present(rollout)
        if present is not None:
            self._judge(present, self.observations(present))

    def _begin(self, rollout: RolloutEntry, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.create_task(work(), name=str(rollout.id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _step(self, rollout: RolloutEntry, seen: Observations) -> None:
        """To the next share; behind the last, to all users, or what an eval says against that is noted."""

        async def work(change: Change) -> bool:
            judged = await _as_judged(change, rollout)
            if judged is None or judged[1].percent != rollout.percent:
                return True
            adapter, row = judged
            if await rollouts.step(change, adapter, row):
                await self._snapshots.touch(change, adapter.name)
                return True
            try:
                await self._finish(change, adapter, row, "promoted", "went through all steps", self._evidence(row))
            except EvalGate as gate:
                row.reason = f"waits: {gate.detail}"
                return False
            return True

        try:
            went_on = await self._database.write(_ACTOR, work)
        except Exception as error:
            _log.warning("rollout %d could not go on: %s", rollout.id, error)
            went_on = False
        if not went_on:
            seen.delay_step(rollout, time.monotonic(), _AGAIN_SECONDS)
            self._judge_in(_AGAIN_SECONDS, rollout)

    async def _roll_back(self, rollout: RolloutEntry, reason: str, evidence: dict[str, Any]) -> None:
        async def work(change: Change) -> None:
            judged = await _as_judged(change, rollout)
            if judged is not None:
                await self._finish(change, *judged, "rolled_back", reason, evidence)

        try:
            await self._database.write(_ACTOR, work)
        except Exception as error:
            # The next request of the candidate comes to the same verdict and tries again.
            _log.warning("rollout %d could not be rolled back: %s", rollout.id, error)

    async def _finish(
        self,
        change: Change,
        adapter: AdapterRow,
        row: RolloutRow,
        end: rollouts.End,
        reason: str | None,
        evidence: dict[str, Any],
    ) -> None:
        await rollouts.finish(change, adapter, row, end, reason, evidence)
        await self._snapshots.touch(change, adapter.name)
        change.after_commit.append(partial(self._forget, row.id))

    async def _keep_evidence(self, change: Change) -> None:
        """Of the rollouts that this transaction superseded: whichever change of an alias or adapter it is."""
        for event in change.events:
            if event.type == SUPERSEDED_EVENT:
                row = await change.session.get_one(RolloutRow, event.payload["rollout"])
                row.observed = self._evidence(row)
                change.after_commit.append(partial(self._forget, row.id))

    def _evidence(self, row: RolloutRow) -> dict[str, Any]:
        return (self.seen(row.id) or Observations()).evidence(row.bounds, time.time())

    def _forget(self, rollout_id: int) -> None:
        self._observations.pop(rollout_id, None)
        if timer := self._timers.pop(rollout_id, None):
            timer.cancel()


async def _as_judged(change: Change, rollout: RolloutEntry) -> tuple[AdapterRow, RolloutRow] | None:
    """None when it has ended, or a client has changed its bounds since: by those the next request is judged."""
    row = await change.session.get(RolloutRow, rollout.id)
    adapter = await change.session.get(AdapterRow, row.adapter_id) if row else None
    if row is None or adapter is None or row.state != "running" or adapter.deleted_at is not None:
        return None
    return (adapter, row) if row.bounds == rollout.bounds else None
