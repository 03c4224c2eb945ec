"""Works through runs in the background, with a lease, and resumes behind the results that are there.

Knows neither the checks nor the gateway: `Examiner` does. Any process on the database may work on any run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

from multiflora_platform.auth.principals import Principal
from multiflora_platform.evals import runs
from multiflora_platform.evals.asking import Examiner
from multiflora_platform.evals.checks import EvalCase
from multiflora_platform.evals.runs import CaseResult, ClaimedRun, RunLost
from multiflora_platform.storage.claim_loop import ClaimLoop
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.tables import EventRow
from multiflora_platform.web.problems import InsufficientStorage, Unavailable

_log = logging.getLogger(__name__)
_ACTOR = "system/evals"
AT_ONCE = 16
_LOOK_SECONDS = 5.0
_SAVE_SECONDS = 1.0
_RETRY_SECONDS = 1.0


class EvalRunner(ClaimLoop[ClaimedRun]):
    """principal_of: who a tenant's run asks as; None when it may no more. width: how many prompts of one run are under
    way at once; asked as it begins."""

    def __init__(
        self,
        database: Database,
        examiner: Examiner,
        principal_of: Callable[[str | None], Principal | None],
        width: Callable[[], int],
    ) -> None:
        super().__init__("run of an eval", _LOOK_SECONDS)
        self._database = database
        self._examiner = examiner
        self._principal_of = principal_of
        self._width = width
        self._running: dict[int, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """Gives back what runs; the next start goes on."""
        await self._stop_taking()
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    def stopped(self, run_id: int) -> None:
        """It was ended from outside: what is being computed for it is not needed any more."""
        if run_id in self._running:
            self._running[run_id].cancel()

    async def follow(self, events: Sequence[EventRow]) -> None:
        """Other processes' events: a new run may be ours to work on."""
        if any(event.type == runs.QUEUED for event in events):
            self.kick()

    def _has_room(self) -> bool:
        return len(self._running) < AT_ONCE

    async def _is_any_free(self) -> bool | None:
        async with self._database.read() as session:
            return await runs.claimable(session, datetime.now(UTC))

    async def _claim(self) -> ClaimedRun | None:
        async def work(change: Change) -> ClaimedRun | None:
            # Another one for each claim: an attempt of this process that lost its lease must not write beside the next.
            return await runs.claim(change, secrets.token_hex(16))

        return await self._database.write(_ACTOR, work)

    def _begin(self, claimed: ClaimedRun) -> None:
        self.stopped(claimed.id)  # an attempt of this process whose lease ran out
        task = self._running[claimed.id] = asyncio.create_task(self._guarded(claimed))

        def ended(_: asyncio.Task[None]) -> None:
            if self._running.get(claimed.id) is task:
                del self._running[claimed.id]
            self.kick()

        task.add_done_callback(ended)

    async def _guarded(self, claimed: ClaimedRun) -> None:
        """One run's trouble ends that run. A database that is away ends none: it is resumed when its lease is over."""
        try:
            await self._work(claimed)
        except asyncio.CancelledError:
            await self._give_back(claimed)
        except RunLost:
            pass
        except (InsufficientStorage, Unavailable) as error:
            _log.warning("run %d of an eval waits for the end of its lease: %s", claimed.id, error.detail)
        except Exception:
            _log.exception("run %d of an eval failed", claimed.id)
            with contextlib.suppress(RunLost, Unavailable, InsufficientStorage):
                await self._fail(claimed, "Something failed inside the server; its log says what.")

    async def _give_back(self, claimed: ClaimedRun) -> None:
        with contextlib.suppress(RunLost, Unavailable, InsufficientStorage):
            await self._write(lambda change: runs.release(change, claimed))

    async def _work(self, claimed: ClaimedRun) -> None:
        """Raises RunLost when it was cancelled or taken over."""
        principal = self._principal_of(claimed.tenant)
        if principal is None:
            await self._fail(claimed, f"The tenant {claimed.tenant!r} has no valid key any more.")
        elif claimed.attempts > runs.MAX_ATTEMPTS:
            await self._fail(claimed, "Its server was stopped at each attempt.")
        else:
            await self._ask_all(claimed, principal)
            await self._write(lambda change: runs.complete(change, claimed))

    async def _ask_all(self, claimed: ClaimedRun, principal: Principal) -> None:
        found: list[CaseResult] = []
        fields = {"model": claimed.model, **claimed.mix}
        places = asyncio.Semaphore(self._width())

        async def ask(position: int, case: EvalCase) -> None:
            async with places:
                found.append(await self._examiner.examine(principal, fields, position, case))

        left = [(position, case) for position, case in enumerate(claimed.cases) if position not in claimed.done]
        asking = [asyncio.create_task(ask(*one)) for one in left]
        try:
            await self._save_as_they_come(claimed, asking, found)
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    async def _save_as_they_come(
        self, claimed: ClaimedRun, asking: list[asyncio.Task[None]], found: list[CaseResult]
    ) -> None:
        saved = time.monotonic()
        waiting: set[asyncio.Task[None]] = set(asking)
        while waiting or found:
            if waiting:
                done, waiting = await asyncio.wait(waiting, timeout=_SAVE_SECONDS)
                for task in done:
                    task.result()
            if found or time.monotonic() - saved > runs.LEASE.total_seconds() / 3:
                batch = found.copy()
                found.clear()
                await self._save(claimed, batch)
                saved = time.monotonic()

    async def _save(self, claimed: ClaimedRun, batch: list[CaseResult]) -> None:
        await self._write(lambda change: runs.save(change, claimed, batch))

    async def _fail(self, claimed: ClaimedRun, reason: str) -> None:
        await self._write(lambda change: runs.fail(change, claimed, reason))

    async def _write(self, work: Callable[[Change], Awaitable[None]]) -> None:
        await self._database.write(_ACTOR, work)
