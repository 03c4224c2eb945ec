"""Structures to grammars in worker processes, within bounds of time, memory and number; known ones at once.

Owns the workers and a cache. Knows no HTTP: what is wrong comes as GrammarRejected or CompilersBusy.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from collections import OrderedDict
from dataclasses import dataclass

import msgspec

from multiflora_platform.structured.formats import Structure
from multiflora_platform.structured.worker import Compiled, Setup
from multiflora_platform.text.tokenizer import Tokenizer
from multiflora_platform.workers.process import WorkerEnded, WorkerProcess, again_if_ended_from_outside

_log = logging.getLogger(__name__)

WORKERS = 2
# What one structure may take; a worker that needs more ends itself.
COMPILE_SECONDS = 1.0
COMPILE_MEGABYTES = 1024
# How long a request waits for an idle worker before it is told to come back.
WAIT_SECONDS = 0.7
START_SECONDS = 60.0
# How long a structure that took too much is refused without another try.
REMEMBER_SECONDS = 60.0
MAX_STRUCTURE_BYTES = 1 << 20
MAX_CACHED = 512
MAX_CACHED_BYTES = 32 << 20
# A grammar is larger than its structure, but an answer without end must not fill the server's memory.
_LINE_BYTES = 16 * MAX_STRUCTURE_BYTES


class GrammarRejected(Exception):
    """The structure is not one that texts can follow, or takes too much to follow; the message says why."""


class CompilersBusy(Exception):
    """Other requests' structures take all workers; the client may come back later."""


class GrammarCompiler:
    """For one model. Workers start with the first structure or with `start`; `close` ends them."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: frozenset[int]) -> None:
        setup = Setup(
            tokenizer.definition,
            vocab_size,
            sorted(eos_token_ids),
            tokenizer.special_ids_by_text(vocab_size),
            COMPILE_SECONDS,
            COMPILE_MEGABYTES,
        )
        self._setup = msgspec.json.encode(setup) + b"\n"
        self._idle: asyncio.Queue[WorkerProcess] = asyncio.Queue()
        self._starting: set[asyncio.Task[None]] = set()
        # Idle, busy, or dead and not noticed yet.
        self._workers: set[WorkerProcess] = set()
        # Outcomes by the structure's hash, the least recently used first.
        self._cache: OrderedDict[bytes, _Known] = OrderedDict()
        self._cached_bytes = 0
        # Compilations under way by the structure's hash; equal requests join them.
        self._running: dict[bytes, asyncio.Task[Compiled]] = {}
        self._closed = False

    def start(self) -> None:
        """Idempotent; needs a running event loop."""
        while len(self._workers) + len(self._starting) < WORKERS and not self._closed:
            task = asyncio.get_running_loop().create_task(self._start_worker())
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    async def close(self) -> None:
        """Idempotent. Waits for workers that are just starting: one that is in no set yet would outlive the server."""
        self._closed = True
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), *self._starting, return_exceptions=True)
        await asyncio.gather(*(worker.kill() for worker in self._workers))
        self._workers.clear()

    async def compile(self, structure: Structure) -> str:
        """The grammar for the engine. Equal structures are compiled once. Raises GrammarRejected, CompilersBusy."""
        try:
            line = msgspec.json.encode(structure) + b"\n"
        except RecursionError:
            raise GrammarRejected("it is nested too deeply") from None
        if len(line) > MAX_STRUCTURE_BYTES:
            raise GrammarRejected(f"it is larger than {MAX_STRUCTURE_BYTES >> 20} MiB")
        key = hashlib.blake2b(line, digest_size=16).digest()
        known = self._cache.get(key)
        if known is None or time.monotonic() > known.until:
            compiled = await self._join(key, line)
        else:
            self._cache.move_to_end(key)
            compiled = known.compiled
        if compiled.grammar is None:
            raise GrammarRejected(compiled.error or "it cannot be compiled")
        return compiled.grammar

    async def _join(self, key: bytes, line: bytes) -> Compiled:
        """One compilation for all requests that wait for it; one that leaves does not end it for the others."""
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.get_running_loop().create_task(self._compile(key, line))
            task.add_done_callback(lambda _: self._running.pop(key, None))
        return await asyncio.shield(task)

    async def _compile(self, key: bytes, line: bytes) -> Compiled:
        until = math.inf
        try:
            compiled = await again_if_ended_from_outside(lambda: self._attempt(line))
        except (WorkerEnded, TimeoutError):
            compiled = Compiled(error=f"it takes more than {COMPILE_SECONDS:g} s or {COMPILE_MEGABYTES} MB to compile")
            # On a machine that is less busy it may take less; until then no request pays for it again.
            until = time.monotonic() + REMEMBER_SECONDS
        self._remember(key, _Known(compiled, until))
        return compiled

    async def _attempt(self, line: bytes) -> Compiled:
        """Raises WorkerEnded, or TimeoutError of a worker that does not even end in time."""
        worker = await self._take_worker()
        try:
            answer = await worker.ask(line, COMPILE_SECONDS + 0.2)
        except BaseException:
            await self._replace(worker)
            raise
        self._idle.put_nowait(worker)
        return msgspec.json.decode(answer, type=Compiled)

    async def _take_worker(self) -> WorkerProcess:
        """Wait for an idle worker; those that died meanwhile are replaced. Raises CompilersBusy."""
        while True:
            self.start()
            # While there is none they are starting, which takes its time with a large tokenizer.
            patience = WAIT_SECONDS if self._workers else START_SECONDS
            try:
                worker = await asyncio.wait_for(self._idle.get(), patience)
            except TimeoutError:
                raise CompilersBusy("All grammar compilers are busy with other requests' structures.") from None
            if not worker.is_dead:
                return worker
            await self._replace(worker)

    async def _replace(self, worker: WorkerProcess) -> None:
        self._workers.discard(worker)
        await worker.kill()
        self.start()

    async def _start_worker(self) -> None:
        worker = await WorkerProcess.start("multiflora_platform.structured.worker", line_bytes=_LINE_BYTES)
        try:
            await worker.ask(self._setup, START_SECONDS)
        except BaseException as error:
            await worker.kill()
            if isinstance(error, WorkerEnded | TimeoutError):
                _log.error("A grammar compiler did not start")
            raise
        self._workers.add(worker)
        self._idle.put_nowait(worker)

    def _remember(self, key: bytes, known: _Known) -> None:
        self._forget(key)
        self._cache[key] = known
        self._cached_bytes += known.size
        while len(self._cache) > MAX_CACHED or (self._cached_bytes > MAX_CACHED_BYTES and len(self._cache) > 1):
            self._forget(next(iter(self._cache)))

    def _forget(self, key: bytes) -> None:
        known = self._cache.pop(key, None)
        self._cached_bytes -= known.size if known else 0


@dataclass(frozen=True)
class _Known:
    """One outcome in the cache, a rejection, too."""

    compiled: Compiled
    # Monotonic seconds; infinite for all but what took too much.
    until: float

    @property
    def size(self) -> int:
        return len(self.compiled.grammar or "")
