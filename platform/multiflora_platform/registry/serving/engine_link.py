"""What the registry asks of a running engine: commands on adapters, the probe, and what is resident. Owns no engine."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from multiflora_engine.process.client import EngineUnavailable
from multiflora_engine.protocol.messages import AdapterResult, ResidencyReport
from multiflora_platform.engine import EngineHandle
from multiflora_platform.registry.errors import CommandFailed, NoRoom
from multiflora_platform.web.problems import Unavailable


def with_disk(held: Sequence[ResidencyReport], registered: Collection[str]) -> list[ResidencyReport]:
    """What the engine knows of, and a row for each registered digest that it has never been asked for."""
    known = {adapter.digest for adapter in held}
    others = [ResidencyReport(digest, "disk", False, 0, 0, 0) for digest in sorted(set(registered) - known)]
    return [*held, *others]


class EngineLink:
    """One engine, seen from the registry."""

    def __init__(self, engine: EngineHandle) -> None:
        self._engine = engine

    @property
    def is_ready(self) -> bool:
        return self._engine.state == "ready"

    async def command(self, action: str, digest: str) -> AdapterResult:
        """Raises Unavailable when no engine is there, CommandFailed when it refuses, NoRoom when pins are why."""
        try:
            result = await self._engine.adapter(action, digest)
        except EngineUnavailable as error:
            raise Unavailable(f"The engine is not available: {error.message}") from error
        if result.error is not None:
            failed = NoRoom if result.is_full else CommandFailed
            raise failed(f"The engine could not {action} the adapter: {result.error}")
        return result

    async def probe(self, digest: str) -> float | None:
        """Largest |logit difference| to the base model; None while the engine is not ready."""
        if self._engine.state != "ready":
            return None
        return (await self.command("probe", digest)).logit_distance

    async def forget(self, digest: str) -> None:
        """Take a deleted adapter out of memory."""
        if self._engine.state == "ready":
            await self.command("unpin", digest)
            await self.command("unload", digest)

    async def replicas(self, registered: Collection[str]) -> list[dict[str, Any]]:
        """`[{pid, state, adapters: [{digest, residency, pinned, ...}]}]`; pid None while there is no process.

        registered: digests that the engine may be asked for; those that it does not hold are on disk.
        """
        state = self._engine.state
        try:
            status = await self._engine.status() if state == "ready" else None
        except EngineUnavailable:
            status, state = None, self._engine.state
        if status is None:
            return [{"pid": None, "state": state, "adapters": []}]
        fields = ("digest", "residency", "pinned", "rank", "bytes", "running")
        adapters = [
            {field: getattr(adapter, field) for field in fields} for adapter in with_disk(status.adapters, registered)
        ]
        return [{"pid": status.pid, "state": state, "adapters": adapters}]
