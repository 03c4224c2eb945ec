"""Works through batches in the background, one after the other, and takes up after a crash where it was.

What is done is what stands in the result files: a line is written whole, and a batch that starts again skips the lines
that are there. Knows the routes only through `answer`.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.responses import Response

from multiflora_platform.auth.principals import Principal
from multiflora_platform.batches.file_store import FileStore
from multiflora_platform.batches.ledger import Ledger
from multiflora_platform.batches.lines import (
    BatchLine,
    check_lines,
    done_ids,
    read_lines,
)
from multiflora_platform.batches.results import Results
from multiflora_platform.gateway.in_process import persistently
from multiflora_platform.storage.tables import BatchRow
from multiflora_platform.web.problems import InsufficientStorage, Unavailable

_log = logging.getLogger(__name__)
_ACTOR = "batches"
_RETRY_SECONDS = 1.0
# Of a request's answer, what its line says beside the body.
_KEPT_HEADERS = ("x-multiflora-version", "x-cache-reason")
Answer = Callable[[Principal, str, dict[str, Any]], Awaitable[Response]]
FindPrincipal = Callable[[str | None], Principal | None]


class BatchRunner:
    """answer: one request through the gateway. principal_of: who a tenant's batch runs as; None when it may no more.

    width: how many requests run at once, asked before each batch. most_line_bytes: of a file's line.
    """

    def __init__(
        self,
        ledger: Ledger,
        files: FileStore,
        answer: Answer,
        principal_of: FindPrincipal,
        width: Callable[[], int],
        most_line_bytes: int,
    ) -> None:
        self._ledger = ledger
        self._files = files
        self._answer = answer
        self._principal_of = principal_of
        self._width = width
        self._most_line_bytes = most_line_bytes
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._results: dict[str, Results] = {}
        self._cancelled: dict[str, asyncio.Event] = {}

    def start(self) -> None:
        """Begins with what an earlier process left."""
        self._wake.set()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stops where it is; the next start goes on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def wake(self) -> None:
        """There is a new batch, or one to cancel."""
        self._wake.set()

    def cancel(self, batch_id: str) -> None:
        if batch_id in self._cancelled:
            self._cancelled[batch_id].set()
        self.wake()

    def counts(self, batch: BatchRow) -> tuple[int, int]:
        """(completed, failed) as of this moment."""
        results = self._results.get(batch.id)
        return (batch.completed, batch.failed) if results is None else (results.completed, results.failed)

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                for batch_id in await self._ledger.unfinished():
                    await self._attempt(batch_id)
            except Exception:  # a database that is locked for long, a full disk: batches wait and are not lost
                _log.exception("Batches stand still and are tried again")
                await asyncio.sleep(_RETRY_SECONDS)
                self._wake.set()

    async def _attempt(self, batch_id: str) -> None:
        """One batch's trouble ends that batch. Raises when not even that can be recorded, and what is no batch's."""
        try:
            await self._work(batch_id)
        except (InsufficientStorage, Unavailable):
            raise
        except Exception:
            _log.exception("Batch %s failed", batch_id)
            await self._fail(batch_id, "internal_error", "Something failed inside the server; its log says what.")

    async def _work(self, batch_id: str) -> None:
        batch = await self._ledger.any_batch(batch_id)
        assert batch is not None, "batches are not deleted"
        if batch.status == "validating" and not await self._validate(batch):
            return
        principal = self._principal_of(batch.owner)
        if principal is None:
            await self._fail(batch_id, "invalid_key", "The tenant has no valid key any more.")
            return
        results = self._results[batch_id] = await self._open_results(batch)
        cancelled = self._cancelled[batch_id] = asyncio.Event()
        try:
            state = "cancelled" if batch.status == "cancelling" else "completed"
            if batch.status == "in_progress":
                state = await self._answer_all(batch, principal, results, cancelled)
            await self._finish(batch, principal, results, state)
        finally:
            results.close()
            del self._results[batch_id], self._cancelled[batch_id]

    async def _validate(self, batch: BatchRow) -> bool:
        file = self._files.path(batch.input_file_id)
        total, errors = await asyncio.to_thread(check_lines, file, batch.endpoint, self._most_line_bytes)
        if errors:
            shown = [msgspec.to_builtins(error) for error in errors]
            await self._ledger.amend(_ACTOR, batch.id, {"status": "failed", "failed_at": ..., "errors": shown})
            return False
        await self._ledger.amend(
            _ACTOR, batch.id, {"status": "in_progress", "in_progress_at": ..., "total": total}, ("validating",)
        )
        fresh = await self._ledger.any_batch(batch.id)
        assert fresh is not None, "batches are not deleted"
        batch.status, batch.total = fresh.status, total
        return True

    async def _open_results(self, batch: BatchRow) -> Results:
        number = batch.id.removeprefix("batch_")
        output, errors = (self._files.path(f"file-{number}-{kind}") for kind in ("output", "error"))
        completed = await asyncio.to_thread(done_ids, output)
        failed = await asyncio.to_thread(done_ids, errors)
        # Not in the thread: what it opened would stay open if we were cancelled meanwhile.
        return Results(output, errors, completed, failed)

    async def _answer_all(
        self, batch: BatchRow, principal: Principal, results: Results, cancelled: asyncio.Event
    ) -> str:
        """The state that the batch ends in."""
        work = asyncio.create_task(self._answer_lines(batch, principal, results))
        stop = asyncio.create_task(cancelled.wait())
        left = (batch.expires_at - datetime.now(UTC)).total_seconds()
        try:
            await asyncio.wait((work, stop), timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
                return "completed"
            return "cancelled" if stop.done() else "expired"
        finally:
            work.cancel()
            stop.cancel()
            await asyncio.gather(work, stop, return_exceptions=True)

    async def _answer_lines(self, batch: BatchRow, principal: Principal, results: Results) -> None:
        width = asyncio.Semaphore(max(1, self._width()))

        async def one(line: BatchLine) -> None:
            try:
                await self._keep(results, line.custom_id, await self._persist(principal, line))
            finally:
                width.release()

        async with asyncio.TaskGroup() as group:
            for line in read_lines(self._files.path(batch.input_file_id)):
                await asyncio.sleep(0)  # of a batch that goes on, thousands may be done
                if line.custom_id not in results.done:
                    await width.acquire()
                    group.create_task(one(line))

    async def _keep(self, results: Results, custom_id: str, response: dict[str, Any]) -> None:
        """A full disk is waited out: the answer is not computed again."""
        while True:
            try:
                return results.add(custom_id, response)
            except InsufficientStorage as error:
                _log.warning("A batch's answer waits to be written: %s", error.detail)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _persist(self, principal: Principal, line: BatchLine) -> dict[str, Any]:
        response = await persistently(lambda: self._answer(principal, line.url, line.body))
        return {
            "status_code": response.status_code,
            "request_id": uuid.uuid4().hex,
            "headers": {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers},
            "body": msgspec.Raw(bytes(response.body)),
        }

    async def _finish(self, batch: BatchRow, principal: Principal, results: Results, state: str) -> None:
        await self._ledger.amend(_ACTOR, batch.id, {"status": "finalizing", "finalizing_at": ...}, ("in_progress",))
        if state == "expired":
            lines = read_lines(self._files.path(batch.input_file_id))
            expired = (line.custom_id for line in lines if line.custom_id not in results.done)
            await asyncio.to_thread(results.expire, expired)
        await asyncio.to_thread(results.sync)
        made: dict[str, str] = {}
        for kind, path in (("output", results.output), ("error", results.errors)):
            size = path.stat().st_size
            if size and await self._ledger.file(principal, path.name) is None:
                await self._ledger.add_file(principal, path.name, f"{batch.id}_{kind}.jsonl", "batch_output", size)
            if size:
                made[f"{kind}_file_id"] = path.name
        counted = {"completed": results.completed, "failed": results.failed}
        await self._ledger.amend(_ACTOR, batch.id, {"status": state, f"{state}_at": ..., **made, **counted})

    async def _fail(self, batch_id: str, code: str, message: str) -> None:
        errors = [{"code": code, "message": message, "line": None, "param": None}]
        await self._ledger.amend(_ACTOR, batch_id, {"status": "failed", "failed_at": ..., "errors": errors})
