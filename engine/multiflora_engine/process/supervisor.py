"""Keeps one engine process alive: starts it, notices its death or silence, fails what it owed, starts it again.

asyncio, torch-free. Knows processes and patience; what is said between them is the client's and the process's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from multiflora_engine.process.client import EngineClient, Event
from multiflora_engine.process.liveness import WorkMeter
from multiflora_engine.protocol.config import EngineConfig
from multiflora_engine.protocol.lines import EngineStart, Listen
from multiflora_engine.protocol.messages import (
    Fatal,
    LoadProgress,
    Ready,
    Shutdown,
)
from multiflora_engine.protocol.requests import EngineFailure

_log = logging.getLogger(__name__)

State = Literal["starting", "ready", "restarting", "failed", "stopped"]
_COMMAND = (sys.executable, "-P", "-m", "multiflora_engine.process.main")
_TICK = 0.25
_NO_VARIABLES: Mapping[str, str] = {}
_DEAD = EngineFailure("engine_dead", "The engine process ended while the request was running; it is being restarted.")


@dataclass(frozen=True)
class Patience:
    """How long the supervisor waits for what. All but start_attempts in seconds."""

    # An engine that serves may say nothing and do nothing for so long: it is stopped, or its device hangs.
    silence: float = 8.0
    # ... and say nothing although it works. One layer of a large model may take long on few cores, or a compilation.
    silence_at_work: float = 120.0
    # ... and while it loads, whether it works or waits for a disk or a network.
    loading: float = 900.0
    # Starts in a row that may fail before giving up.
    start_attempts: int = 3
    # The pause before a restart, doubled each time up to max_backoff until the engine has served for `stable`.
    backoff: float = 0.5
    max_backoff: float = 30.0
    stable: float = 60.0


class EngineFailed(Exception):
    """The engine could not be started, and the supervisor has given up. kind: "configuration" or "internal"."""

    def __init__(self, fatal: Fatal) -> None:
        super().__init__(fatal.message)
        self.kind = fatal.kind
        self.message = fatal.message


class EngineSupervisor:
    """state: starting, ready, restarting, failed (see `failure`) or stopped. pid: of the running process.

    on_progress hears of loading, each time the engine starts. command: the engine's program, which reads an
    EngineStart. variables: of its environment, beside ours. listen: where gateways reach it from other hosts.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        patience: Patience | None = None,
        on_progress: Callable[[LoadProgress], None] = lambda progress: None,
        command: Sequence[str] = _COMMAND,
        variables: Mapping[str, str] = _NO_VARIABLES,
        listen: Listen | None = None,
    ) -> None:
        self.client = EngineClient(self._on_event)
        self.state: State = "starting"
        self.failure: Fatal | None = None
        self.restarts = 0
        self.pid: int | None = None
        self._config = config
        self._patience = patience or Patience()
        self._on_progress = on_progress
        self._command = command
        self._variables = variables
        self._listen = listen
        self._ready_at = 0.0
        self._stopping = False
        self._settled = asyncio.Event()
        self._died = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._folder: Path | None = None

    async def start(self) -> None:
        """Starts the process and returns; `wait_ready` waits for it. What was stopped may be started again."""
        assert self._task is None, "already started"
        self._stopping, self.state, self.failure = False, "starting", None
        self._settled.clear()
        self._folder = _socket_folder()
        self._task = asyncio.create_task(self._keep_alive(self._folder), name="engine supervisor")

    async def wait_ready(self) -> Ready:
        """Returns when the engine serves. Raises EngineFailed when it never will."""
        while True:
            await self._settled.wait()
            if self.client.ready is not None:
                return self.client.ready
            if self.state in ("failed", "stopped"):
                raise EngineFailed(self.failure or Fatal("internal", "The engine was stopped."))
            self._settled.clear()

    async def drain(self, patience: float) -> None:
        """Asks the engine to answer what it has and to end, for good; returns when it has, or after patience (seconds).
        `stop` is to follow."""
        self._stopping = True
        if self.pid is not None and self.client.ready is not None:
            os.kill(self.pid, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._died.wait(), patience)

    async def stop(self, grace: float = 5.0) -> None:
        """Asks the engine to end, then makes it. Requests still running end with "engine_dead"."""
        if self._task is not None:
            self._stopping = True
            if self.client.connected:
                self.client.send(Shutdown())
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._died.wait(), grace)
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        self._settle("stopped")
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    # ---- one life after another

    async def _keep_alive(self, folder: Path) -> None:
        failed_starts, pause, has_served = 0, self._patience.backoff, False
        for generation in range(sys.maxsize):
            self.failure = None
            # A socket of its own for each process: what is still on its way to one that died cannot reach the next.
            served, cause = await self._live(str(folder / f"{generation}.sock"))
            has_served = has_served or served > 0
            failed_starts = 0 if served else failed_starts + 1
            if self._stopping:
                return None
            self.failure = self.failure or Fatal("internal", cause)
            # A setting that is wrong stays wrong: only the operator can mend it. With one that has served, something
            # else is in the way, such as memory that is taken for a moment.
            is_wrong = self.failure.kind == "configuration" and not has_served
            if is_wrong or failed_starts >= self._patience.start_attempts:
                _log.error("The engine cannot be started: %s", self.failure.message)
                return self._settle("failed")
            pause = self._patience.backoff if served > self._patience.stable else pause
            _log.warning("The engine ended (%s); restarting in %.1f s", self.failure.message, pause)
            self.state = "restarting"
            self.restarts += 1
            await asyncio.sleep(pause)
            pause = min(pause * 2, self._patience.max_backoff)
        return None

    async def _live(self, path: str) -> tuple[float, str]:
        """One process from start to end: how many seconds it served, and why it ended."""
        self.client.connect(path)
        process, lifeline = self._spawn(path)
        try:
            cause = await self._watch(process)
        finally:
            self.pid = None
            served = time.monotonic() - self._ready_at if self.client.ready is not None else 0.0
            # Before the process is killed and reaped: its requests fail now, their clients need not wait for that.
            self.client.disconnect(_DEAD)
            asyncio.get_running_loop().remove_reader(lifeline)
            os.close(lifeline)
            await _end(process)
        return served, cause

    def _spawn(self, path: str) -> tuple[subprocess.Popen[bytes], int]:
        """The process, and the read end of a pipe whose write end only it holds: end of file is its death, at once.

        A session of its own keeps the terminal's Ctrl-C with the parent, which decides how to shut down.
        """
        lifeline, held = os.pipe()
        try:
            with tempfile.TemporaryFile() as start:
                # A file without a name: keys stand in neither arguments nor environment, and no pipe fills up.
                start.write(msgspec.msgpack.encode(EngineStart(self._config, path, self._listen)))
                start.seek(0)
                process = subprocess.Popen(
                    self._command,
                    stdin=start,
                    pass_fds=[held],
                    start_new_session=True,
                    env=_environment({**os.environ, **self._variables}),
                )
        finally:
            os.close(held)
        self._died.clear()
        self.pid = process.pid
        asyncio.get_running_loop().add_reader(lifeline, self._died.set)
        return process, lifeline

    async def _watch(self, process: subprocess.Popen[bytes]) -> str:
        """Returns the cause when the process has ended, or must be ended for its silence."""
        tick = time.monotonic()
        meter: WorkMeter | None = None
        # An engine that serves speaks each second: what it does is looked at only when it is overdue.
        overdue = self._patience.silence / 4
        while True:
            pause = max(_TICK, self.client.last_message + overdue - tick)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._died.wait(), pause)
            if self._died.is_set() or process.poll() is not None:
                return await _exit_cause(process)
            previous, tick = tick, time.monotonic()
            if tick - previous > pause + 3 * _TICK:
                # This process itself was suspended or starved: what the engine sent meanwhile is still unread.
                self.client.last_message = tick
            silent = tick - self.client.last_message
            if silent < overdue:
                meter = None
                continue
            meter = meter or WorkMeter(process.pid, self.client.last_message)
            idle = min(silent, tick - meter.look())
            if self.client.ready is None:
                if silent > self._patience.loading:
                    return f"no sign of life for {silent:.0f} s of loading"
            elif idle > self._patience.silence:
                return f"no sign of life and no work for {idle:.0f} s"
            elif silent > self._patience.silence_at_work:
                return f"no sign of life for {silent:.0f} s, although it works"

    # ---- what the engine reports

    def _on_event(self, event: Event) -> None:
        match event:
            case LoadProgress():
                self._on_progress(event)
            case Fatal():
                self.failure = event
            case Ready():
                self._ready_at = time.monotonic()
                self._settle("ready")

    def _settle(self, state: State) -> None:
        self.state = state
        self._settled.set()


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    """The engine's: ours, and short spinning at OpenMP's barriers unless the user has chosen otherwise.

    libgomp spins for milliseconds where each thread seems to have a core; when another process wants one, and be it the
    gateway, the threads wait for those that do not run. One busy neighbour on two cores made a decode step of 11 ms
    take 139 ms, two of them 1.5 s; with the count that libgomp itself takes where it knows of too few cores, 23 and
    82 ms, and 11 ms as before alone. OMP_WAIT_POLICY=passive was a little better in company, and 15 ms alone.
    """
    if "OMP_WAIT_POLICY" in own or "GOMP_SPINCOUNT" in own:
        return dict(own)
    return {**own, "GOMP_SPINCOUNT": "1000"}


def _socket_folder() -> Path:
    """A folder (0700) of our own, short enough for a unix socket's path (at most 107 bytes)."""
    folder = Path(tempfile.mkdtemp(prefix="multiflora-"))
    if len(os.fsencode(folder)) > 80:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="multiflora-", dir="/tmp"))
    return folder


async def _exit_cause(process: subprocess.Popen[bytes]) -> str:
    """The lifeline breaks a moment before the exit status can be read."""
    for _ in range(100):
        code = process.poll()
        if code is not None:
            return _killed_by(signal.Signals(-code)) if code < 0 else f"exit status {code}"
        await asyncio.sleep(0.01)
    return "closed its lifeline"


def _killed_by(sent: signal.Signals) -> str:
    """The supervisor looks before it kills: a SIGKILL that it finds is another's, nearly always the kernel's."""
    if sent is not signal.SIGKILL:
        return f"killed by {sent.name}"
    advice = "Give a smaller --kv-cache-memory or --max-cpu-loras, a smaller --dtype, or the machine more memory"
    return f"killed by SIGKILL, most likely by the kernel for want of memory (see dmesg). {advice}"


async def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills the process with everything in its session, and waits until it is gone, even when cancelled meanwhile."""
    cancelled: asyncio.CancelledError | None = None
    while process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError as error:
            cancelled = error  # a stop that comes now would leave a process that is reaped by nothing
    if cancelled is not None:
        raise cancelled
