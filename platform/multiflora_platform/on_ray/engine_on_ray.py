"""What a replica of Ray Serve runs: an engine as `multiflora engine` runs it, with an address of its node's.

Knows no Ray: it is told its node's address, and calls nothing of Ray's.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from multiflora_platform.configuration import configure_keys
from multiflora_platform.on_ray.load_signal import LoadSignal
from multiflora_platform.server.beginnings import log_to_stderr
from multiflora_platform.server.engines.host import EngineHost, plan_of
from multiflora_platform.settings import ConfigurationError, Settings

_SEEN_SECONDS = 3.0
"""Gateways look at the table each second: until then they know of a new engine, and an old one may go."""
_ATTEMPTS = 64


class EngineOnRay:
    """`start` it, and `end` it. keys: of the deploy file; what they leave out is in the environment of the node."""

    def __init__(self, keys: Mapping[str, Any], num_threads: int, address: str, ports: Sequence[int] | None) -> None:
        """Raises ConfigurationError."""
        settings = configure_keys(keys, os.environ, "the deployed configuration").settings
        log_to_stderr(settings)
        host = f"[{address}]" if ":" in address else address
        endpoint = f"tcp://{host}:{free_port(address, ports)}"
        own = {"listen": endpoint, "advertise": None, "replicas": 1, "num_threads": num_threads}
        self._settings: Settings = settings.model_copy(update=own)
        self._serving = asyncio.Event()
        self._host = EngineHost(self._settings, plan_of(self._settings), self._note)
        self._stopping = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._signal = LoadSignal(self._host.supervisor)

    async def start(self) -> None:
        """Returns when the engine serves and gateways have had the time to find it. Raises as EngineHost.run."""
        self._running = asyncio.create_task(self._host.run(self._stopping), name="engine host")
        serving = asyncio.create_task(self._serving.wait())
        await asyncio.wait({self._running, serving}, return_when=asyncio.FIRST_COMPLETED)
        serving.cancel()
        self.check()
        await asyncio.sleep(_SEEN_SECONDS)

    def _note(self, is_ready: bool) -> None:
        if is_ready:
            self._serving.set()

    def check(self) -> None:
        """Raises what ended the engine for good."""
        if self._running is not None and self._running.done():
            self._running.result()

    async def load(self) -> dict[str, float]:
        """Fields of Load by name; empty while the engine does not serve."""
        return await self._signal.told(time.monotonic())

    async def end(self) -> None:
        """Returns when the engine has answered what it had, and is gone."""
        self._stopping.set()
        if self._running is not None:
            await asyncio.gather(self._running, return_exceptions=True)


def free_port(address: str, ports: Sequence[int] | None) -> int:
    """One that nothing listens on. ports: the first and the last to choose from; None: any. Engines that start together
    rarely choose the same, and one that finds it taken is started again. Raises ConfigurationError."""
    for _ in range(_ATTEMPTS):
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            try:
                probe.bind((address, random.randint(*ports) if ports else 0))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ConfigurationError(f"no port of {address} is free in {ports}; give more in `ports`")
