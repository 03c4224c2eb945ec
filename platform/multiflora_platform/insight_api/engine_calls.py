"""An engine that is not there, in the registry's words: what insight's routes ask it answers 503 then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from multiflora_engine.process.client import EngineUnavailable
from multiflora_engine.protocol.messages import Ready
from multiflora_platform.engine import EngineHandle, ReplicaHandle, UnknownReplica
from multiflora_platform.registry.errors import ReplicaNotFound
from multiflora_platform.web.problems import Unavailable


def ready_engine(engine: EngineHandle | ReplicaHandle) -> Ready:
    """What it said when it began to serve. Raises Unavailable."""
    ready = engine.ready
    if ready is None:
        raise Unavailable(f"The engine is not ready; it is {engine.state}.")
    return ready


@contextmanager
def reaching_engine() -> Iterator[None]:
    """Raises Unavailable, ReplicaNotFound."""
    try:
        yield
    except UnknownReplica as error:
        raise ReplicaNotFound(str(error)) from None
    except EngineUnavailable as error:
        raise Unavailable(f"The engine is not available: {error.message}") from error
