"""What the servers on one database have seen of running rollouts: each tells the others of its own, twice a second.

A server's row is replaced whole, so that what was told twice, or of a server that has ended, counts once. Knows nothing
of verdicts.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import msgspec

from multiflora_platform.registry.changes.rollout_observations import Observations
from multiflora_platform.storage.database import Database
from multiflora_platform.web.problems import Unavailable

_log = logging.getLogger(__name__)
EXCHANGE_SECONDS = 0.5


@dataclass(frozen=True)
class _Told:
    """By another server."""

    revision: int
    observations: Observations


class RolloutEvidence:
    """`own` to add to; `of_all` to judge by. `exchange` it where servers share a database, `close` in the end."""

    def __init__(self, database: Database) -> None:
        # None where no other server can be: on SQLite.
        self._connection = database.direct
        # Another for each start: what an earlier process saw still counts.
        self._server = secrets.token_hex(8)
        # By the rollouts' ids.
        self._own: dict[int, Observations] = {}
        self._others: dict[int, dict[str, _Told]] = {}
        # What the others know of this server, by rollout: how often it was told, and what.
        self._told: dict[int, tuple[int, str]] = {}
        self._task: asyncio.Task[None] | None = None

    def own(self, rollout_id: int) -> Observations:
        return self._own.setdefault(rollout_id, Observations())

    def of_all(self, rollout_id: int, percent: int) -> Observations | None:
        """percent: its present share. None: no server has seen anything."""
        own, others = self._own.get(rollout_id), self._others.get(rollout_id)
        if others is None:
            return own
        return (own or Observations()).with_others([told.observations for told in others.values()], percent)

    @property
    def rollouts(self) -> set[int]:
        """Those of which this server has seen something itself."""
        return set(self._own)

    def forget(self, rollout_id: int) -> None:
        self._own.pop(rollout_id, None)
        self._others.pop(rollout_id, None)
        self._told.pop(rollout_id, None)

    def exchange(self, running: Callable[[], Iterable[int]], on_news: Callable[[int], None]) -> None:
        """From now on, in the background. running: the ids of rollouts that run. on_news: another server has seen more
        of this one."""
        if self._connection is not None:
            self._task = asyncio.create_task(self._exchange_on(running, on_news))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def exchange_once(self, running: Collection[int]) -> list[int]:
        """Tells the others, and hears of them; the rollouts of which there is news. Raises Unavailable."""
        assert self._connection is not None, "only servers on PostgreSQL have others beside them"
        for rollout_id in running:
            await self._tell(rollout_id)
        revisions = {
            f"{rollout_id}/{server}": told.revision
            for rollout_id, others in self._others.items()
            for server, told in others.items()
        }
        known = msgspec.json.encode(revisions).decode()
        values = {"server": self._server, "running": list(running), "known": known}
        news = await self._connection.rows(_READ, values)
        for rollout_id, server, revision, written in news:
            self._others.setdefault(rollout_id, {})[server] = _Told(revision, Observations.read(written))
        return sorted({rollout_id for rollout_id, *_ in news})

    async def _tell(self, rollout_id: int) -> None:
        """Where it has changed since it was told."""
        assert self._connection is not None, "only servers on PostgreSQL have others beside them"
        if rollout_id not in self._own:
            return
        revision, before = self._told.get(rollout_id, (0, ""))
        written = self._own[rollout_id].written()
        if written != before:
            values = {"rollout": rollout_id, "server": self._server, "revision": revision + 1, "observed": written}
            await self._connection.rows(_WRITE, values)
            self._told[rollout_id] = (revision + 1, written)

    async def _exchange_on(self, running: Callable[[], Iterable[int]], on_news: Callable[[int], None]) -> None:
        known: set[int] | None = None
        while True:
            try:
                present = set(running())
                if known is None or known - present:
                    await self._forget_ended(present)
                known = present
                for rollout_id in await self.exchange_once(present) if present else ():
                    on_news(rollout_id)
            except Unavailable:
                pass  # the follower logs it; what was not told is told later
            except Exception:
                _log.exception("observations of rollouts could not be exchanged; trying again")
            await asyncio.sleep(EXCHANGE_SECONDS)

    async def _forget_ended(self, running: Collection[int]) -> None:
        assert self._connection is not None, "only servers on PostgreSQL have others beside them"
        for rollout_id in [*self._own.keys() - running, *self._others.keys() - running]:
            self.forget(rollout_id)
        await self._connection.rows(_CLEAN, {})


_WRITE = """
INSERT INTO rollout_observations (rollout_id, server, revision, observed)
VALUES (%(rollout)s, %(server)s, %(revision)s, %(observed)s)
ON CONFLICT (rollout_id, server) DO UPDATE SET revision = excluded.revision, observed = excluded.observed
"""
_READ = """
SELECT rollout_id, server, revision, observed FROM rollout_observations
WHERE server <> %(server)s AND rollout_id = ANY(%(running)s)
AND revision <> coalesce((%(known)s::jsonb ->> (rollout_id || '/' || server))::bigint, 0)
"""
_CLEAN = "DELETE FROM rollout_observations WHERE rollout_id NOT IN (SELECT id FROM rollouts WHERE state = 'running')"
