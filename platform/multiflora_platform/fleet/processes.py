"""The fleet's processes: made, started, waited for and stopped together. Knows no requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from multiflora_engine.process.supervisor import EngineFailed, EngineSupervisor
from multiflora_engine.protocol.config import EngineConfig
from multiflora_engine.protocol.messages import LoadProgress, Ready
from multiflora_platform.fleet.fleet import Fleet
from multiflora_platform.fleet.replica import EngineReplica
from multiflora_platform.fleet.routing import Router


def silent(progress: LoadProgress) -> None:
    """Shows nothing of it."""


def supervised(
    config: EngineConfig,
    places: Sequence[Mapping[str, str]],
    router: Router | None = None,
    group: str = "",
    prefix: str = "",
    on_progress: Callable[[LoadProgress], None] = silent,
) -> Fleet:
    """An engine for each place, none of them started. places: variables of each one's environment. prefix: of their
    ids. on_progress: of the first one's loading, which is like the others'."""
    replicas = []
    for number, place in enumerate(places):
        own = _of_place(config, number) if len(places) > 1 else config
        supervisor = EngineSupervisor(own, on_progress=silent if number else on_progress, variables=place)
        replicas.append(EngineReplica(f"{prefix}{number}", supervisor, group))
    return Fleet(replicas, router)


def _of_place(config: EngineConfig, number: int) -> EngineConfig:
    """Copies of KV blocks on disk are one process's: each has a folder and its part of the bytes."""
    if config.kv_offload_dir is None:
        return config
    folder = str(Path(config.kv_offload_dir) / f"replica-{number}")
    disk_bytes = max(1, config.kv_offload_disk_bytes // config.engines_per_host)
    return replace(config, kv_offload_dir=folder, kv_offload_disk_bytes=disk_bytes)


async def start_all(fleet: Fleet) -> None:
    for replica in fleet.replicas:
        await replica.start()


async def stop_all(fleet: Fleet) -> None:
    await asyncio.gather(*(replica.supervisor.stop() for replica in fleet.replicas))


async def wait_all_ready(fleet: Fleet) -> Ready:
    """Raises EngineFailed when one of them never will be: what ails it ails its equals, or the machine is too small."""
    waiting = [asyncio.ensure_future(replica.supervisor.wait_ready()) for replica in fleet.replicas]
    try:
        return (await asyncio.gather(*waiting))[0]
    finally:
        await _cancel(waiting)


async def wait_any_ready(fleet: Fleet) -> None:
    """Raises EngineFailed when none of them ever will be."""
    waiting = [asyncio.ensure_future(replica.supervisor.wait_ready()) for replica in fleet.replicas]
    failure: EngineFailed | None = None
    try:
        for one in asyncio.as_completed(waiting):
            try:
                await one
                return
            except EngineFailed as error:
                failure = failure or error
    finally:
        await _cancel(waiting)
    assert failure is not None, "there is at least one engine"
    raise failure


async def _cancel(waiting: Sequence[asyncio.Future[Ready]]) -> None:
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
