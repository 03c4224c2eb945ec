"""Works through batches in the background, each owner's one after the other, each under a lease.

Any server on the database may work on any batch whose input it can read. Knows neither lines nor results: `BatchWork`
does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from multiflora_platform.batches import claims
from multiflora_platform.batches.claims import BatchLost, ClaimedBatch, IsInReach
from multiflora_platform.batches.work import ACTOR, RETRY_SECONDS, BatchMeans, BatchWork
from multiflora_platform.storage.claim_loop import ClaimLoop
from multiflora_platform.storage.database import Change
from multiflora_platform.storage.tables import BatchRow, EventRow
from multiflora_platform.web.problems import InsufficientStorage, Unavailable

_log = logging.getLogger(__name__)
_LOOK_SECONDS = 5.0
SAVE_SECONDS = 5.0
MOST_AT_ONCE = 32
"""Of different owners: one whose budget is spent keeps its batch standing, and no one else's."""


class BatchRunner(ClaimLoop[ClaimedBatch]):
    """is_in_reach: whether this server can read a batch's input."""

    def __init__(self, means: BatchMeans, is_in_reach: IsInReach) -> None:
        super().__init__("batch", _LOOK_SECONDS)
        self._means = means
        self._database = means.database
        self._is_in_reach = is_in_reach
        # By batch.
        self._working: dict[str, BatchWork] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """What is answered is safe, and the rest any server's; the next start goes on."""
        await self._stop_taking()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cancel(self, batch_id: str) -> None:
        """It is to end: here if it is worked on here, otherwise where its lease is, or by the next that claims it."""
        if batch_id in self._working:
            self._working[batch_id].cancel()
        self.kick()

    async def follow(self, events: Sequence[EventRow]) -> None:
        """Other servers' events: a new batch may be ours to work on, and ours may have been cancelled there."""
        for event in events:
            if event.type == "batch.cancelling":
                self.cancel(event.payload.get("batch", ""))
            elif event.type == "batch.created":
                self.kick()

    def counts(self, batch: BatchRow) -> tuple[int, int]:
        """(completed, failed): as of this moment where it is worked on here, otherwise of its last save."""
        own = self._working.get(batch.id)
        return (own.counts if own is not None else None) or (batch.completed, batch.failed)

    def _has_room(self) -> bool:
        return len(self._working) < MOST_AT_ONCE

    async def _is_any_free(self) -> bool | None:
        async with self._database.read() as session:
            return await claims.is_any_free(session, datetime.now(UTC), self._is_in_reach)

    async def _claim(self) -> ClaimedBatch | None:
        async def work(change: Change) -> ClaimedBatch | None:
            return await claims.claim(change, secrets.token_hex(16), self._is_in_reach)

        return await self._database.write(ACTOR, work)

    def _begin(self, claimed: ClaimedBatch) -> None:
        work = self._working[claimed.id] = BatchWork(claimed, self._means)
        task = asyncio.create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: BatchWork) -> None:
        """One batch's trouble ends that batch. A full disk and a database or bucket that is away end none."""
        try:
            await self._while_held(work)
        except BatchLost:
            _log.warning("Batch %s is another server's now", work.claimed.id)
        except asyncio.CancelledError:
            await self._give_back(work.claimed)
        except (InsufficientStorage, Unavailable) as error:
            _log.warning("Batch %s stands still and is tried again: %s", work.claimed.id, error.detail)
            await asyncio.sleep(RETRY_SECONDS)
            await self._give_back(work.claimed)
        except Exception:
            _log.exception("Batch %s failed", work.claimed.id)
            with contextlib.suppress(BatchLost, InsufficientStorage, Unavailable):
                await work.fail_internally()
        finally:
            del self._working[work.claimed.id]
            self.kick()

    async def _while_held(self, work: BatchWork) -> None:
        """Raises BatchLost, and what `BatchWork.run` does."""
        working = asyncio.create_task(work.run())
        saving = asyncio.create_task(self._save_regularly(work))
        try:
            await asyncio.wait({working, saving}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                saving.result()
                raise BatchLost(work.claimed.id)
            working.result()
        except asyncio.CancelledError:
            with contextlib.suppress(BatchLost, InsufficientStorage, Unavailable):
                await work.save()
            raise
        finally:
            for task in (working, saving):
                task.cancel()
            await asyncio.gather(working, saving, return_exceptions=True)

    async def _save_regularly(self, work: BatchWork) -> None:
        """Until the lease is over. An outage of the database is waited out as long as that may last."""
        last = time.monotonic()
        while time.monotonic() - last < claims.LEASE.total_seconds():
            await asyncio.sleep(SAVE_SECONDS)
            with contextlib.suppress(InsufficientStorage, Unavailable):
                await work.save()
                last = time.monotonic()

    async def _give_back(self, claimed: ClaimedBatch) -> None:
        with contextlib.suppress(BatchLost, InsufficientStorage, Unavailable):
            await self._database.write(ACTOR, lambda change: claims.release(change, claimed))
