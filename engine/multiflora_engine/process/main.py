"""The engine's own process, `python -m multiflora_engine.process.main`; a supervisor starts it.

Owns start, exit status and last words. Knows nothing of models: `build` makes those; the step loop runs them.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import BinaryIO

import msgspec

from multiflora_engine.models.errors import ModelError
from multiflora_engine.process.garbage import FullCollections
from multiflora_engine.process.lifetime import ProcessLifetime
from multiflora_engine.process.served import Served
from multiflora_engine.process.socket import EngineSocket
from multiflora_engine.process.step_loop import StepLoop
from multiflora_engine.protocol.config import EngineConfig
from multiflora_engine.protocol.lines import EngineStart, Listen
from multiflora_engine.protocol.messages import Fatal, Hello, LoadProgress

_log = logging.getLogger(__name__)

_START_SECONDS = 60.0
SWITCH_SECONDS = 0.0005
"""For which a thread beside the step loop may keep the interpreter's lock from it: a tenth of Python's default, which
is longer than a step on a GPU."""

Progress = Callable[[str, int, int], None]
Build = Callable[[EngineConfig, Progress], Served]


def serve(source: BinaryIO, build: Build) -> int:
    """Runs the engine as `source` says, an EngineStart, until it is told to end. Returns the exit status: 0, 1 or 3
    (configuration)."""
    lifetime = ProcessLifetime()
    start = msgspec.msgpack.decode(source.read(), type=EngineStart)
    socket = EngineSocket(start.path)
    try:
        if not _wait_for_starter(socket, lifetime):
            return 0
        if start.listen is not None:
            _listen(socket, start.listen)
        served = build(start.config, lambda stage, done, total: socket.send_all(LoadProgress(stage, done, total)))
        lifetime.loading = False
        served.artifacts.can_ask = start.listen is not None or start.config.asks_for_artifacts
        with closing(FullCollections()) as collections:
            StepLoop(served, socket, lifetime, collections.advance).run()
        served.finish()
    except ModelError as error:
        socket.send_all(Fatal("configuration", str(error)))
        return 3
    except Exception as error:
        _log.exception("The engine cannot go on")
        socket.send_all(Fatal("internal", f"{type(error).__name__}: {error}"))
        return 1
    finally:
        socket.close()
    return 0


def _wait_for_starter(socket: EngineSocket, lifetime: ProcessLifetime) -> bool:
    """False when the supervisor does not come: it wants no engine any more, or died before this process watched it."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and not lifetime.orphaned:
        socket.wait(1000)
        if (received := socket.receive()) is not None:
            return isinstance(received[1], Hello)
    return False


def _listen(socket: EngineSocket, where: Listen) -> None:
    """Raises ModelError."""
    try:
        socket.listen(where)
    except OSError as error:
        raise ModelError(f"The engine cannot listen on {where.endpoint}: {error.strerror}.") from None


def main() -> int:
    from multiflora_engine.build import build_engine

    sys.setswitchinterval(SWITCH_SECONDS)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    return serve(sys.stdin.buffer, build_engine)


if __name__ == "__main__":
    sys.exit(main())
