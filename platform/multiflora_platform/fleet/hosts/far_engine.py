"""An engine of another host: one line to it after another, for as long as the fleet has it. Knows no other engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from multiflora_engine.process.client import EngineClient, Event
from multiflora_engine.process.supervisor import EngineFailed
from multiflora_engine.protocol.lines import EngineAddress
from multiflora_engine.protocol.messages import Fatal, Ready
from multiflora_engine.protocol.requests import EngineFailure
from multiflora_platform.fleet.hosts.line_keys import KeyPair
from multiflora_platform.fleet.hosts.replica_table import Listing
from multiflora_platform.fleet.replica import EngineReplica

_log = logging.getLogger(__name__)
_PAUSE = 0.1
_CUT = EngineFailure("engine_dead", "The line to the engine was lost while the request was running.")
_LEFT = EngineFailure("engine_dead", "The engine left while the request was running.")


class FarEngine:
    """What a supervisor is to an engine of this machine: but it neither starts nor ends the engine, only lines to it.

    state: starting until the engine is reached for the first time, ready, restarting while the line is cut, stopped
    once it has ended in order, or failed where it serves another base model. restarts: lines that were lost. on_ready:
    called at the beginning of each line.
    """

    pid: int | None = None
    """It is none of this machine's."""

    def __init__(self, address: EngineAddress, base_digest: str, on_ready: Callable[[], None]) -> None:
        self.client = EngineClient(self._on_event)
        self.state = "starting"
        self.restarts = 0
        self.failure: Fatal | None = None
        self._address = address
        self._base_digest = base_digest
        self._on_ready = on_ready
        self._cut = asyncio.Event()
        self._settled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        assert self._task is None, "already started"
        self._task = asyncio.create_task(self._keep_connected(), name=f"line to {self._address.endpoint}")

    async def wait_ready(self) -> Ready:
        """Raises EngineFailed when the engine never will serve this gateway."""
        while self.client.ready is None:
            if self.state in ("failed", "stopped"):
                raise EngineFailed(self.failure or Fatal("internal", "The engine has left."))
            self._settled.clear()
            await self._settled.wait()
        return self.client.ready

    async def stop(self) -> None:
        """Ends the line; the engine goes on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._settle("stopped")

    async def _keep_connected(self) -> None:
        while True:
            self._cut.clear()
            self.client.connect(self._address, self._cut.set)
            failure = _LEFT
            try:
                await self._cut.wait()
                failure = _CUT
            finally:
                was_ready = self.client.ready is not None
                self.client.disconnect(failure)
            if was_ready and self.client.is_draining:
                self._settle("stopped")
            elif was_ready:
                self.restarts += 1
                _log.warning("The line to the engine at %s was lost; connecting again", self._address.endpoint)
                self._settle("restarting")
            await asyncio.sleep(_PAUSE)

    def _on_event(self, event: Event) -> None:
        match event:
            case Ready():
                if event.base_digest == self._base_digest:
                    self._settle("ready")
                    self._on_ready()
                else:
                    self._refuse()
            case Fatal():
                self.failure = event

    def _refuse(self) -> None:
        """Answers of another base model would be worse than none."""
        self.client.ready = None
        message = f"The engine at {self._address.endpoint} serves another base model than this gateway."
        if self.state != "failed":
            _log.error("%s Give both the same MODEL, or other names in --group", message)
        self.failure = Fatal("configuration", message)
        self._settle("failed")

    def _settle(self, state: str) -> None:
        self.state = state
        self._settled.set()


class FarReplica(EngineReplica):
    """The handle of an engine elsewhere."""

    def __init__(self, listing: Listing, engine: FarEngine) -> None:
        super().__init__(listing.id, engine, listing.group)
        self.host = listing.host
        self.listing = listing

    @property
    def epoch(self) -> int:
        """An engine outlives its lines: it says itself which life of it this is."""
        return self.client.epoch or 0


def address_of(listing: Listing, gateway: KeyPair, timeout: float) -> EngineAddress:
    """timeout: see EngineAddress."""
    return EngineAddress(listing.endpoint, listing.public_key, gateway.public, gateway.secret, timeout)
