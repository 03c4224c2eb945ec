"""Runs jobs: claims them, keeps their leases alive, tries again after failures, gives back what it cannot end.

Does not know what a job does (intake/import_job.py); any process on the same database may run any job whose files are
within its reach, which with one data folder, or an origin of artifacts, is each.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from multiflora_platform.registry.rows import jobs
from multiflora_platform.registry.rows.idempotency import StoredAnswer
from multiflora_platform.registry.rows.jobs import ClaimedJob, HasFiles, LeaseLost
from multiflora_platform.storage.claim_loop import ClaimLoop
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.disk_errors import full_disk_reported
from multiflora_platform.storage.tables import EventRow
from multiflora_platform.web.problems import InsufficientStorage, Problem, Unavailable

_log = logging.getLogger(__name__)
AT_ONCE = 8
LOOK_SECONDS = 1.0
HEARTBEAT_SECONDS = 1.0
_ENDING = frozenset({"version.ready", "version.rejected", "version.archived"})


@dataclass
class Progress:
    """How far a fetch is: the fetching thread writes it, the heartbeats read it. One writer for each field."""

    done: int = 0  # bytes, by the thread
    total: int | None = None  # bytes, by the thread; None until the source says it
    stopped: bool = False  # by the runner: the thread gives up at its next piece

    def reach(self, done: int, total: int) -> None:
        """Raises LeaseLost when the runner has stopped the job."""
        self.done, self.total = done, total
        if self.stopped:
            raise LeaseLost("stopped")


# work(claimed, progress) makes the version and finishes the job; fail(claimed, error) rejects it for good.
Work = Callable[[ClaimedJob, Progress], Awaitable[None]]
Fail = Callable[[ClaimedJob, Exception], Awaitable[None]]


@dataclass
class _Running:
    claimed: ClaimedJob
    progress: Progress = field(default_factory=Progress)


class JobRunner(ClaimLoop[ClaimedJob]):
    """`start()`, then `kick()` whenever there is a new job; `answer(id, seconds)` to wait for one."""

    def __init__(self, database: Database, work: Work, fail: Fail, has_files: HasFiles = lambda job_id: True) -> None:
        super().__init__("job", LOOK_SECONDS)
        self._database = database
        self._work = work
        self._fail = fail
        self._has_files = has_files
        self._owner = secrets.token_hex(16)
        self._running: dict[str, _Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: dict[str, list[asyncio.Event]] = {}

    async def close(self) -> None:
        """Stop taking jobs; those that run are given back for the next process."""
        for running in self._running.values():
            running.progress.stopped = True
        await self._stop_taking()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def answer(self, job_id: str, seconds: float) -> StoredAnswer | None:
        """To the request that made the job, once that has ended; None: it has not within so many seconds."""
        # Registered before the first look: a job that ends between look and wait would otherwise never wake it.
        news = asyncio.Event()
        self._waiting.setdefault(job_id, []).append(news)
        deadline = time.monotonic() + seconds
        try:
            while (answer := await self._answer(job_id)) is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), None if math.isinf(left) else left)
                news.clear()
            return answer
        finally:
            self._waiting[job_id].remove(news)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def _answer(self, job_id: str) -> StoredAnswer | None:
        async with self._database.read() as session:
            row = await jobs.require(session, job_id)
        if row.state in jobs.UNFINISHED:
            return None
        assert row.outcome is not None, "a job ends with its answer"
        return StoredAnswer(row.outcome["status"], row.outcome["body"])

    def stopped(self, job_id: str) -> None:
        """It was ended from outside: a worker of this process gives up at once, and requests that wait for it go on."""
        if running := self._running.get(job_id):
            running.progress.stopped = True
        self._tell(job_id)

    async def follow(self, events: Sequence[EventRow]) -> None:
        """Other processes' events: requests that wait for a job of theirs look again; a new job may be ours to run."""
        types = {event.type for event in events}
        if types & _ENDING:
            for job_id in self._waiting:
                self._tell(job_id)
        if "version.created" in types:
            self.kick()

    def _tell(self, job_id: str) -> None:
        for news in self._waiting.get(job_id, ()):
            news.set()

    def _has_room(self) -> bool:
        return len(self._running) < AT_ONCE

    async def _is_any_free(self) -> bool | None:
        async with self._database.read() as session:
            return await jobs.is_any_due(session, self._running, self._has_files)

    async def _claim(self) -> ClaimedJob | None:
        async def work(change: Change) -> ClaimedJob | None:
            return await jobs.claim(change, self._owner, self._running, self._has_files)

        return await self._database.write("system", work)

    def _begin(self, claimed: ClaimedJob) -> None:
        running = self._running[claimed.id] = _Running(claimed)
        task = asyncio.create_task(self._guarded(running))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, running: _Running) -> None:
        claimed = running.claimed
        heartbeats = asyncio.create_task(self._heartbeat(running))
        working = asyncio.create_task(self._worked(running))
        try:
            await asyncio.wait({heartbeats, working}, return_when=asyncio.FIRST_COMPLETED)
            # The heartbeats end first only when the lease is lost: then another worker may have the job already.
            if not working.done():
                running.progress.stopped = True
                working.cancel()
            await working
        except (LeaseLost, asyncio.CancelledError):
            # Cancelling reaches the coroutine; a thread that fetches sees `stopped` at its next piece.
            running.progress.stopped = True
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await self._give_back(claimed)
        except Exception as error:
            await self._failed(claimed, error)
        finally:
            heartbeats.cancel()
            await asyncio.gather(heartbeats, return_exceptions=True)
            if len(self._running) == AT_ONCE:
                self.kick()
            del self._running[claimed.id]
            self._tell(claimed.id)

    async def _worked(self, running: _Running) -> None:
        # A job that kills its server never comes to `_failed`: its attempts are counted when it is claimed.
        if running.claimed.attempts > jobs.MAX_ATTEMPTS:
            raise RuntimeError("its server was stopped at each attempt")
        with full_disk_reported():
            await self._work(running.claimed, running.progress)

    async def _heartbeat(self, running: _Running) -> None:
        """Until the lease is lost. An outage of the database is waited out as long as the lease may live."""
        last = time.monotonic()
        seen: tuple[int, int | None] = (0, None)
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            progress = running.progress
            now = (progress.done, progress.total)
            # Progress is written once a second; without any, a third of the lease is soon enough to keep it.
            if now == seen and time.monotonic() - last < jobs.LEASE.total_seconds() / 3:
                continue
            try:
                await self._database.write("system", _one_heartbeat(running.claimed, now))
                last, seen = time.monotonic(), now
            except LeaseLost:
                return
            except (InsufficientStorage, Unavailable):
                if time.monotonic() - last > jobs.LEASE.total_seconds():
                    return

    async def _failed(self, claimed: ClaimedJob, error: Exception) -> None:
        """What no retry can mend is rejected; the rest is tried again, up to MAX_ATTEMPTS times."""
        permanent = isinstance(error, InsufficientStorage) or (isinstance(error, Problem) and error.status < 500)
        if not permanent:
            _log.warning("attempt %d of job %s failed: %r", claimed.attempts, claimed.id, error)
        try:
            if permanent or claimed.is_last_attempt:
                await self._fail(claimed, error)
            else:
                await self._database.write("system", lambda change: self._postpone(change, claimed, error))
        except LeaseLost:
            pass
        except (InsufficientStorage, Unavailable) as outage:
            _log.warning("job %s waits for the end of its lease: %s", claimed.id, outage.detail)

    async def _postpone(self, change: Change, claimed: ClaimedJob, error: Exception) -> None:
        jobs.postpone(change, await jobs.require_lease(change, claimed), str(error) or repr(error))

    async def _give_back(self, claimed: ClaimedJob) -> None:
        async def work(change: Change) -> None:
            jobs.release(change, await jobs.require_lease(change, claimed))

        with contextlib.suppress(LeaseLost, Unavailable, InsufficientStorage):
            await self._database.write("system", work)


def _one_heartbeat(claimed: ClaimedJob, progress: tuple[int, int | None]) -> Callable[[Change], Awaitable[None]]:
    return lambda change: jobs.heartbeat(change, claimed, *progress)
