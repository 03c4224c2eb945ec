"""What the registry asks of a running engine: commands on adapters, the probe, and what is resident. Owns no engine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Sequence
from typing import Any

from multiflora_engine.process.client import EngineUnavailable
from multiflora_engine.protocol.messages import AdapterResult, ResidencyReport, Status
from multiflora_platform.engine import EngineHandle, ReplicaHandle, UnknownReplica
from multiflora_platform.registry.errors import CommandFailed, NoRoom, ReplicaNotFound
from multiflora_platform.web.problems import Unavailable

_SHOWN = ("digest", "residency", "pinned", "rank", "bytes", "running")


def with_disk(held: Sequence[ResidencyReport], registered: Collection[str]) -> list[ResidencyReport]:
    """What the engine knows of, and a row for each registered digest that it has never been asked for."""
    known = {adapter.digest for adapter in held}
    others = [ResidencyReport(digest, "disk", False, 0, 0, 0) for digest in sorted(set(registered) - known)]
    return [*held, *others]


class EngineLink:
    """The engines, seen from the registry."""

    def __init__(self, engine: EngineHandle) -> None:
        self._engine = engine

    @property
    def is_ready(self) -> bool:
        return self._engine.state == "ready"

    async def command(self, action: str, digest: str, replica: str | None = None) -> AdapterResult:
        """replica: the only one that is told; None: all are. Raises Unavailable when no engine is there, CommandFailed
        when it refuses, NoRoom when pins are why, ReplicaNotFound."""
        try:
            result = await self._engine.addressed(replica).adapter(action, digest)
        except UnknownReplica as error:
            raise ReplicaNotFound(str(error)) from None
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

    async def replicas(self, registered: Collection[str], *, on_disk: bool = True) -> list[dict[str, Any]]:
        """Each engine: what it is, what it has to do, and `adapters: [{digest, residency, pinned, ...}]`.

        pid is None while there is no process. registered: digests that the engines may be asked for; those that one
        does not hold are on disk: counted, and with on_disk in `adapters`, too.
        """
        shown = (_shown(replica, registered, on_disk=on_disk) for replica in self._engine.replicas)
        return list(await asyncio.gather(*shown))


async def _shown(replica: ReplicaHandle, registered: Collection[str], *, on_disk: bool) -> dict[str, Any]:
    status: Status | None = None
    if replica.ready is not None:
        with contextlib.suppress(EngineUnavailable):
            status = await replica.status()
    stats = replica.stats if status is None else status.stats
    reports = [] if status is None else status.adapters
    held = [report for report in reports if report.residency != "disk"]
    shown = with_disk(reports, registered) if on_disk and status is not None else held
    return {
        "id": replica.id,
        "host": replica.host,
        "group": replica.group,
        "epoch": replica.epoch,
        "pid": None if status is None else status.pid,
        "state": replica.state,
        "running": stats.running,
        "waiting": stats.waiting,
        "pending_prefill_tokens": stats.pending_prefill_tokens,
        "free_blocks": stats.free_blocks,
        "adapters": [{field: getattr(adapter, field) for field in _SHOWN} for adapter in shown],
        "adapters_on_disk": 0 if status is None else len(set(registered).difference(report.digest for report in held)),
    }
