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

from multiflora_platform.registry.changes.rollout_evidence import RolloutEvidence
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
    """Of several servers on one database each judges by what all have seen. The first executes the verdict; the others
    find it executed. `watch` when the snapshot is there."""

    def __init__(
        self, database: Database, snapshots: SnapshotStore, warm_up: WarmUp, pairs: KeptPairs | None = None
    ) -> None:
        """pairs: None where texts are not kept."""
        self.pairs = pairs
        self._database = database
        self._snapshots = snapshots
        self._warm_up = warm_up
        self._seen = RolloutEvidence(database)
        self._tasks: set[asyncio.Task[None]] = set()
        # Of the running ones whose step has its requests and not yet its time, by id.
        self._timers: dict[int, asyncio.TimerHandle] = {}
        # Of those whose step an eval or the database has held up: Unix seconds of the next try.
        self._again_at: dict[int, float] = {}
        database.before_commit.append(self._keep_evidence)

    def watch(self) -> None:
        """From now on other servers' observations count, too."""
        self._seen.exchange(self._running_ids, self._judge_again)

    async def start(
        self, name: str, alias: str, body: NewRollout, precondition: MovePrecondition, actor: str
    ) -> Rollout:
        """The candidate is warm before its first request. Raises RolloutConflict, CommandFailed, and as put_alias."""
        self._snapshots.adapter(name)
        await self._warm_up.before_move(name, alias, [body.candidate])

        async def work(change: Change) -> Rollout:
            row = await rollouts.start(change, name, alias, body, precondition)
            await self._snapshots.touch(change, name)
            return shown(name, row, self.seen(row))

        return await self._database.write(actor, work)

    async def adjust(
        self, name: str, alias: str, fields: dict[str, Any], precondition: MovePrecondition, actor: str
    ) -> Rollout:
        async def work(change: Change) -> Rollout:
            row = await rollouts.adjust(change, name, alias, fields, precondition)
            await self._snapshots.touch(change, name)
            return shown(name, row, self.seen(row))

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
            return shown(name, row, self.seen(row))

        return await self._database.write(actor, work)

    def observe(self, admitted: RolloutEntry, version: int, outcome: RequestOutcome) -> None:
        """One request through the alias has ended; the verdict on the candidate is executed in the background.

        admitted: the rollout as it was when the request was admitted; it is judged as it is now.
        """
        rollout = self._present(admitted)
        if rollout is None:
            return
        own, now = self.observations(rollout), time.time()
        (own.candidate if version == rollout.candidate else own.stable).outcomes.append(outcome)
        if version == rollout.candidate and admitted.percent == rollout.percent:
            own.count_step(rollout.percent, now)
        seen = self._seen.of_all(rollout.id, rollout.percent) or own
        seen.note(rollout.bounds, now)
        if version == rollout.candidate:
            self._judge(rollout, seen)

    def observe_shadow_refusal(self, admitted: RolloutEntry) -> None:
        """The engine could not load the candidate for a shadow run. admitted: as in `observe`."""
        rollout = self._present(admitted)
        if rollout is None:
            return
        own = self.observations(rollout)
        own.candidate.outcomes.append(RequestOutcome(ok=False, seconds=0.0, refused=True))
        self._judge(rollout, self._seen.of_all(rollout.id, rollout.percent) or own)

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

    def seen(self, row: RolloutRow) -> Observations | None:
        """By all servers, of one that runs; None: nothing yet."""
        return self._seen.of_all(row.id, row.percent)

    def observations(self, rollout: RolloutEntry) -> Observations:
        """This server's own, to add to. Of a rollout that has ended: some that nothing reads, so that a late request
        changes no evidence."""
        if self._present(rollout) is None:
            return Observations()
        if rollout.id not in self._seen.rollouts:
            # Those that another process on this database ended; this one's were freed with their end.
            for ended in self._seen.rollouts - self._running_ids():
                self._forget(ended)
        return self._seen.own(rollout.id)

    async def close(self) -> None:
        await self._seen.close()
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

    def _running_ids(self) -> set[int]:
        return {running.id for name in self._snapshots.snapshot.adapters for running in self._running(name)}

    def _judge(self, rollout: RolloutEntry, seen: Observations) -> None:
        if any(task.get_name() == str(rollout.id) for task in self._tasks):
            return  # a decision about it is being executed
        reason = seen.verdict(rollout)
        left = None if reason is not None else self._step_left(rollout, seen)
        if reason is not None:
            # What the verdict rests on, before requests that end meanwhile change the counts.
            self._begin(rollout, partial(self._roll_back, rollout, reason, seen.evidence(rollout.bounds, time.time())))
        elif left is not None and left <= 0:
            self._begin(rollout, partial(self._step, rollout))
        elif left is not None:
            self._judge_in(left, rollout)

    def _step_left(self, rollout: RolloutEntry, seen: Observations) -> float | None:
        now = time.time()
        left = seen.step_left(rollout, now)
        return None if left is None else max(left, self._again_at.get(rollout.id, 0.0) - now)

    def _judge_in(self, seconds: float, rollout: RolloutEntry) -> None:
        if timer := self._timers.pop(rollout.id, None):
            timer.cancel()
        loop = asyncio.get_running_loop()
        self._timers[rollout.id] = loop.call_later(seconds, self._judge_again, rollout.id)

    def _judge_again(self, rollout_id: int) -> None:
        """Without waiting for its next request here."""
        if timer := self._timers.pop(rollout_id, None):
            timer.cancel()
        adapters = self._snapshots.snapshot.adapters
        found = (running for name in adapters for running in self._running(name) if running.id == rollout_id)
        if (present := next(found, None)) is not None:
            self._judge(present, self._seen.of_all(rollout_id, present.percent) or Observations())

    def _begin(self, rollout: RolloutEntry, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.create_task(work(), name=str(rollout.id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _step(self, rollout: RolloutEntry) -> None:
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
            self._again_at[rollout.id] = time.time() + _AGAIN_SECONDS
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
        return (self.seen(row) or Observations()).evidence(row.bounds, time.time())

    def _forget(self, rollout_id: int) -> None:
        self._seen.forget(rollout_id)
        self._again_at.pop(rollout_id, None)
        if timer := self._timers.pop(rollout_id, None):
            timer.cancel()


async def _as_judged(change: Change, rollout: RolloutEntry) -> tuple[AdapterRow, RolloutRow] | None:
    """None when it has ended, or a client has changed its bounds since: by those the next request is judged."""
    row = await change.session.get(RolloutRow, rollout.id)
    adapter = await change.session.get(AdapterRow, row.adapter_id) if row else None
    if row is None or adapter is None or row.state != "running" or adapter.deleted_at is not None:
        return None
    return (adapter, row) if row.bounds == rollout.bounds else None
