"""The engine's own process, `python -m multiflora_engine.process.main SOCKET`; the supervisor starts it.

Owns start, exit status and last words. Knows nothing of models: `build` makes those; the step loop runs them.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from contextlib import closing

from multiflora_engine.models.errors import ModelError
from multiflora_engine.process.garbage import FullCollections
from multiflora_engine.process.lifetime import ProcessLifetime
from multiflora_engine.process.socket import EngineSocket
from multiflora_engine.process.step_loop import Served, StepLoop
from multiflora_engine.protocol.config import EngineConfig
from multiflora_engine.protocol.messages import (
    Fatal,
    LoadProgress,
    Shutdown,
    Start,
)

_log = logging.getLogger(__name__)

_START_SECONDS = 60.0
SWITCH_SECONDS = 0.0005
"""For which a thread beside the step loop may keep the interpreter's lock from it: a tenth of Python's default, which
is longer than a step on a GPU."""

Progress = Callable[[str, int, int], None]
Build = Callable[[EngineConfig, Progress], Served]


def serve(path: str, build: Build) -> int:
    """Runs the engine on the socket until it is told to end. Returns the exit status: 0, 1 or 3 (configuration)."""
    lifetime = ProcessLifetime()
    socket = EngineSocket(path)
    try:
        config = _wait_for_start(socket, lifetime)
        if config is None:
            return 0
        served = build(config, lambda stage, done, total: socket.send(LoadProgress(stage, done, total)))
        lifetime.loading = False
        socket.send(served.ready)
        with closing(FullCollections()) as collections:
            StepLoop(served, socket, lifetime, collections.advance).run()
        served.finish()
    except ModelError as error:
        socket.send(Fatal("configuration", str(error)))
        return 3
    except Exception as error:
        _log.exception("The engine cannot go on")
        socket.send(Fatal("internal", f"{type(error).__name__}: {error}"))
        return 1
    finally:
        socket.close()
    return 0


def _wait_for_start(socket: EngineSocket, lifetime: ProcessLifetime) -> EngineConfig | None:
    """None when the supervisor sends no Start: it wants no engine any more, or died before this process watched it."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and not lifetime.orphaned:
        socket.wait(1000)
        match socket.receive():
            case Start(config):
                return config
            case Shutdown():
                return None
    return None


def main() -> int:
    from multiflora_engine.build import build_engine

    sys.setswitchinterval(SWITCH_SECONDS)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    return serve(sys.argv[1], build_engine)


if __name__ == "__main__":
    sys.exit(main())
