"""One batch from its claim to its end: its input checked, every line answered, the results kept.

What is done is what stands in the result files: a line is written whole, and a batch that is taken up again skips the
lines that are there. So a line may be asked twice, where a server dies between its answer and the next `save`, and is
answered by exactly one row. Knows the routes only through `answer`.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO, TypeVar

import msgspec
from starlette.responses import Response

from multiflora_platform.auth.principals import Principal
from multiflora_platform.batches import claims
from multiflora_platform.batches.claims import ClaimedBatch
from multiflora_platform.batches.lines import BatchLine, check_lines, read_lines
from multiflora_platform.batches.result_parts import SavedParts
from multiflora_platform.batches.results import Results
from multiflora_platform.batches.stored_files import FileStore
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.web.problems import InsufficientStorage, Unavailable

_log = logging.getLogger(__name__)
ACTOR = "batches"
RETRY_SECONDS = 1.0
# Of a request's answer, what its line says beside the body.
_KEPT_HEADERS = ("x-multiflora-version", "x-cache-reason")
Answer = Callable[[Principal, str, dict[str, Any]], Awaitable[Response]]
FindPrincipal = Callable[[str | None], Principal | None]
T = TypeVar("T")


@dataclass(frozen=True)
class BatchMeans:
    """What each batch's work needs.

    answer: one request through the gateway, however long it has to wait. principal_of: who a tenant's batch runs as;
    None when it may no more. width: how many of a batch's requests are under way at once, asked before each batch.
    most_line_bytes: of a file's line.
    """

    database: Database
    files: FileStore
    answer: Answer
    principal_of: FindPrincipal
    width: Callable[[], int]
    most_line_bytes: int


class BatchWork:
    """`run` it, and `save` now and then meanwhile. Both raise BatchLost."""

    def __init__(self, claimed: ClaimedBatch, means: BatchMeans) -> None:
        self.claimed = claimed
        self._means = means
        self._saved = claimed.saved
        self._results: Results | None = None
        self._cancelled = asyncio.Event()
        self._saving = asyncio.Lock()
        self._has_ended = False

    def cancel(self) -> None:
        """What is answered stays; the rest is not begun."""
        self._cancelled.set()

    @property
    def counts(self) -> tuple[int, int] | None:
        """(completed, failed) as of this moment; None: they are not known yet."""
        return None if self._results is None else (self._results.completed, self._results.failed)

    async def run(self) -> None:
        """Raises InsufficientStorage and Unavailable where it is to be tried again, and what is a fault of ours."""
        claimed = self.claimed
        principal = self._means.principal_of(claimed.owner)
        if principal is None:
            await self._fail("invalid_key", "The tenant has no valid key any more.")
        elif claimed.attempts > claims.MAX_ATTEMPTS:
            await self._fail("internal_error", "Its server was stopped at each attempt.")
        else:
            with closing(await self._means.files.open(claimed.input_file_id, claimed.input_digest)) as lines:
                if claimed.status != "validating" or await self._validate(lines):
                    async with self._resumed() as results:
                        await self._conclude(lines, results, await self._answer_all(lines, principal, results))

    async def save(self) -> None:
        """What is answered so far is safe, and the lease is extended. Raises Unavailable, InsufficientStorage."""
        async with self._saving:
            if self._results is None:
                await self._write(lambda change: claims.extend(change, self.claimed))
            elif not self._has_ended:
                await self._save(self._results)

    async def fail_internally(self) -> None:
        await self._fail("internal_error", "Something failed inside the server; its log says what.")

    async def _save(self, results: Results) -> None:
        before, counts = self._saved, (results.completed, results.failed)
        try:
            after = await self._secured(results)
        except Unavailable as error:  # the batch stays ours; what it has answered is secured later
            _log.warning("Answers of batch %s are not safe yet: %s", self.claimed.id, error.detail)
            after = before
        await self._write(lambda change: claims.save(change, self.claimed, after, *counts))
        self._saved = after
        await self._means.files.drop(before.not_in(after))

    async def _validate(self, lines: BinaryIO) -> bool:
        claimed, most = self.claimed, self._means.most_line_bytes
        total, errors = await asyncio.to_thread(check_lines, lines, claimed.endpoint, most)
        if errors:
            shown = [msgspec.to_builtins(error) for error in errors]
            await self._write(lambda change: claims.fail(change, claimed, shown))
        else:
            await self._write(lambda change: claims.begin(change, claimed, total))
        return not errors

    @asynccontextmanager
    async def _resumed(self) -> AsyncIterator[Results]:
        output_id, error_id = self._result_ids()
        output = await self._means.files.resume(output_id, self._saved.output)
        with closing(output):
            errors = await self._means.files.resume(error_id, self._saved.error)
            with closing(errors):
                results = Results(output, errors)
                await asyncio.to_thread(results.read)
                self._results = results
                yield results

    async def _answer_all(self, lines: BinaryIO, principal: Principal, results: Results) -> str:
        """The state that the batch ends in."""
        if self.claimed.status == "cancelling":
            return "cancelled"
        work = asyncio.create_task(self._answer_lines(lines, principal, results))
        stop = asyncio.create_task(self._cancelled.wait())
        left = (self.claimed.expires_at - datetime.now(UTC)).total_seconds()
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

    async def _answer_lines(self, lines: BinaryIO, principal: Principal, results: Results) -> None:
        width = asyncio.Semaphore(max(1, self._means.width()))

        async def one(line: BatchLine) -> None:
            try:
                await self._keep(results, line.custom_id, await self._answered(principal, line))
            finally:
                width.release()

        async with asyncio.TaskGroup() as group:
            for line in read_lines(lines):
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
                await asyncio.sleep(RETRY_SECONDS)

    async def _answered(self, principal: Principal, line: BatchLine) -> dict[str, Any]:
        response = await self._means.answer(principal, line.url, line.body)
        return {
            "status_code": response.status_code,
            "request_id": uuid.uuid4().hex,
            "headers": {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers},
            "body": msgspec.Raw(bytes(response.body)),
        }

    async def _conclude(self, lines: BinaryIO, results: Results, state: str) -> None:
        claimed, files = self.claimed, self._means.files
        await self._write(lambda change: claims.finalize(change, claimed))
        if state == "expired":
            late = (line.custom_id for line in read_lines(lines) if line.custom_id not in results.done)
            await asyncio.to_thread(results.expire, late)
        output_id, error_id = self._result_ids()
        kept = {
            "output": await files.keep(output_id, results.output),
            "error": await files.keep(error_id, results.errors),
        }
        made = {kind: file for kind, file in kept.items() if file.size}
        counts = results.completed, results.failed
        async with self._saving:
            await self._write(lambda change: claims.finish(change, claimed, state, made, *counts))
            self._has_ended = True
            await files.drop(self._saved.not_in(SavedParts()))

    async def _secured(self, results: Results) -> SavedParts:
        files, (output_id, error_id) = self._means.files, self._result_ids()
        return SavedParts(
            await files.secure(output_id, results.output, self._saved.output),
            await files.secure(error_id, results.errors, self._saved.error),
        )

    def _result_ids(self) -> tuple[str, str]:
        number = self.claimed.id.removeprefix("batch_")
        return f"file-{number}-output", f"file-{number}-error"

    async def _fail(self, code: str, message: str) -> None:
        errors = [{"code": code, "message": message, "line": None, "param": None}]
        await self._write(lambda change: claims.fail(change, self.claimed, errors))

    async def _write(self, work: Callable[[Change], Awaitable[T]]) -> T:
        return await self._means.database.write(ACTOR, work)
