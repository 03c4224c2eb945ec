"""An engine process that outlives the event loops of its callers, on a loop of its own.

A program may call asyncio.run several times, or run a loop in each of several threads; supervisor and client need one
loop that stays. Knows requests and token streams; no prompts, texts or names of adapters.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from multiflora_engine.models.errors import ModelError
from multiflora_engine.process.client import EngineUnavailable
from multiflora_engine.process.supervisor import EngineFailed
from multiflora_engine.process.token_stream import TokenStream
from multiflora_engine.protocol.config import EngineConfig
from multiflora_engine.protocol.messages import Fatal, Ready
from multiflora_engine.protocol.requests import EngineFailure, GenerateRequest, TokenDelta
from multiflora_platform.engine import EngineCalls
from multiflora_platform.fleet.places import places_of
from multiflora_platform.fleet.processes import start_all, stop_all, supervised, wait_all_ready, wait_any_ready
from multiflora_platform.fleet.routing import Router

_log = logging.getLogger(__name__)

Result = TypeVar("Result")

_END: Any = object()
_LAST_WORDS_SECONDS = 1.0
_SHUT_DOWN = EngineFailure("engine_dead", "The engine was shut down. Make another one.")


class EngineDeadError(RuntimeError):
    """The engine's process ended while it had the request, cannot be started, or was shut down."""


class BackgroundEngine:
    """Any thread may call. Call `start` first; `stop` ends the process, and every request with "engine_dead".

    The engine is started again when it dies, and finds its adapters again by their digests.
    """

    def __init__(self, config: EngineConfig) -> None:
        """Raises ValueError for more engines than GPUs."""
        places = places_of(config.engines_per_host, config.device, config.kv_cache_memory, config.num_ranks)
        # By load alone: which prompts an engine has cached is looked up by identities that the gateway knows.
        self._engine = supervised(config, places, Router("least-loaded"))
        # The two below belong to the loop's thread. By request, what the client sends and the task that passes it on.
        self._sources: dict[str, TokenStream] = {}
        self._forwarding: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), name="engine loop", daemon=True)
        self._running = threading.Event()

    def start(self) -> None:
        """Starts the process and returns; `wait_ready` waits for it."""
        self._thread.start()
        self._running.wait()

    def wait_ready(self) -> Ready:
        """Blocks until the model is loaded. Raises ModelError for what the user can mend, EngineDeadError otherwise."""
        try:
            return self._submit(wait_all_ready(self._engine)).result()
        except EngineFailed as error:
            if error.kind == "configuration":
                raise ModelError(error.message) from None
            raise _cannot_start(error) from None

    def stop(self) -> None:
        """Blocks until the process is gone. Idempotent."""
        self._call_soon(self._stopping.set)
        # The garbage collector may call from any thread; the loop's own cannot wait for itself.
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    @property
    def state(self) -> str:
        """starting, ready, restarting, failed or stopped."""
        return self._engine.state

    @property
    def failure(self) -> Fatal | None:
        """Why it last died."""
        return self._engine.replicas[0].supervisor.failure

    # ---- from threads without a loop

    def run(self, call: Coroutine[Any, Any, Result]) -> Result:
        """The coroutine's result; it runs on the engine's loop. Interrupted, it is cancelled."""
        assert threading.current_thread() is not self._thread, "the engine's loop cannot wait for itself"
        future = self._submit(call)
        try:
            return future.result()
        finally:
            future.cancel()

    def iterate(self, items: AsyncGenerator[Result, None]) -> Iterator[Result]:
        """The same for a generator. Leaving the iterator closes it."""
        try:
            while (item := self.run(_next(items))) is not _END:
                yield item
        finally:
            # The end of the engine has ended the generator, too.
            with contextlib.suppress(EngineDeadError):
                self.run(items.aclose())

    # ---- from a caller's loop

    async def ready_again(self) -> None:
        """Waits while the engine is restarted. Raises EngineDeadError when it never will be."""
        try:
            if self._engine.ready is None:
                await self.ask(lambda _: wait_any_ready(self._engine))
        except EngineFailed as error:
            raise _cannot_start(error) from None

    async def ask(self, call: Callable[[EngineCalls], Coroutine[Any, Any, Result]]) -> Result:
        """What the engine answers. Raises EngineDeadError."""
        try:
            return await asyncio.wrap_future(self._submit(call(self._engine)))
        except EngineUnavailable as error:
            raise EngineDeadError(error.message) from None

    def generate(self, request: GenerateRequest) -> TokenStream:
        """Its deltas, to be read in the running loop; leaving them is the abort. Ids must be new."""
        stream = TokenStream(self, request)
        if not self._call_soon(self._begin, request, weakref.ref(stream), asyncio.get_running_loop()):
            stream.fail(_SHUT_DOWN)
        return stream

    # ---- what streams call, from their reader's loop or the garbage collector

    def abort(self, request_id: str) -> None:
        self._call_soon(self._abort, request_id)

    def end_sequence(self, request_id: str, index: int) -> None:
        self._call_soon(self._end_sequence, request_id, index)

    def abort_later(self, request_id: str) -> None:
        self.abort(request_id)

    # ---- on the engine's loop

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        await start_all(self._engine)
        self._running.set()
        try:
            await self._stopping.wait()
        finally:
            await stop_all(self._engine)
            # What waited for the engine hears of its end before the loop cancels the rest.
            waiting = asyncio.all_tasks() - {asyncio.current_task()}
            if waiting:
                await asyncio.wait(waiting, timeout=_LAST_WORDS_SECONDS)

    def _begin(
        self, request: GenerateRequest, reader: weakref.ref[TokenStream], loop: asyncio.AbstractEventLoop
    ) -> None:
        try:
            source = self._engine.generate(request)
        except EngineUnavailable as error:
            loop.call_soon_threadsafe(_fail, reader, EngineFailure(error.code, error.message))
            return
        except Exception as error:
            # Its reader must not wait for a request that was never sent.
            _log.exception("Request %s cannot be sent", request.id)
            message = f"The request could not be sent: {type(error).__name__}."
            loop.call_soon_threadsafe(_fail, reader, EngineFailure("internal_error", message))
            return
        self._sources[request.id] = source
        task = asyncio.get_running_loop().create_task(self._forward(request.id, source, reader, loop))
        self._forwarding.add(task)
        task.add_done_callback(self._forwarding.discard)

    async def _forward(
        self, request_id: str, source: TokenStream, reader: weakref.ref[TokenStream], loop: asyncio.AbstractEventLoop
    ) -> None:
        try:
            while deltas := await source.arrived():
                loop.call_soon_threadsafe(_push, reader, deltas)
        except RuntimeError:
            assert loop.is_closed(), "only a closed loop takes no calls; a reader that lived on it reads no more"
        finally:
            source.close()
            del self._sources[request_id]

    def _abort(self, request_id: str) -> None:
        if (source := self._sources.get(request_id)) is not None:
            source.close()

    def _end_sequence(self, request_id: str, index: int) -> None:
        if (source := self._sources.get(request_id)) is not None:
            source.end(index)

    # ---- between threads

    def _submit(self, call: Coroutine[Any, Any, Result]) -> Future[Result]:
        assert self._loop is not None, "start first"
        try:
            return asyncio.run_coroutine_threadsafe(call, self._loop)
        except RuntimeError:
            call.close()
            raise EngineDeadError(_SHUT_DOWN.message) from None

    def _call_soon(self, callback: Callable[..., object], *args: object) -> bool:
        """False after `stop`: the loop is closed, and its thread gone."""
        assert self._loop is not None, "start first"
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            return False
        return True


async def _next(items: AsyncGenerator[Any, None]) -> Any:
    return await anext(items, _END)


def _push(reader: weakref.ref[TokenStream], deltas: list[TokenDelta]) -> None:
    stream = reader()
    if stream is not None:
        for delta in deltas:
            stream.push(delta)


def _fail(reader: weakref.ref[TokenStream], failure: EngineFailure) -> None:
    stream = reader()
    if stream is not None:
        stream.fail(failure)


def _cannot_start(error: EngineFailed) -> EngineDeadError:
    return EngineDeadError(f"The engine cannot be started: {error.message}")
