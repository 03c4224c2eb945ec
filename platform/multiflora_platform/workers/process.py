"""The server's end: starts a worker, asks it, ends it. Knows nothing of what the lines say."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

Answer = TypeVar("Answer")
# The OOM killer's, a service manager's, an operator's. A worker ends by other signals when its work takes too much.
_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM)


class WorkerEnded(Exception):
    """The process ended, or wrote what is no line. from_outside: another process ended it, whatever it worked on."""

    def __init__(self, from_outside: bool) -> None:
        super().__init__(from_outside)
        self.from_outside = from_outside


class WorkerProcess:
    """Used by one caller at a time. One whose caller left before the answer came has to be killed: the answer that is
    still to come is no later caller's."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, module: str, *arguments: str, line_bytes: int) -> WorkerProcess:
        """`python -m MODULE ARGUMENTS`. line_bytes: of the longest answer."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=line_bytes,
        )
        return cls(process)

    @property
    def is_dead(self) -> bool:
        return self._process.returncode is not None

    async def ask(self, line: bytes, seconds: float) -> bytes:
        """line, and the answer: with the newline. Raises WorkerEnded, TimeoutError after so many seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(seconds):
            try:
                self._process.stdin.write(line)
                answer = await self._process.stdout.readline()
            except ConnectionError:
                answer = b""
            except ValueError:  # an answer without end
                raise WorkerEnded(from_outside=False) from None
            if not answer.endswith(b"\n"):
                raise WorkerEnded(await self._process.wait() in _FROM_OUTSIDE)
            return answer

    async def kill(self) -> None:
        """Idempotent."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


async def again_if_ended_from_outside(attempt: Callable[[], Awaitable[Answer]]) -> Answer:
    """Once more, that is: what was worked on is innocent of the first such end. Raises what the attempts do."""
    try:
        return await attempt()
    except WorkerEnded as ended:
        if not ended.from_outside:
            raise
        return await attempt()
