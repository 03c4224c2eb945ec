"""Run by test_recovery.py: imports one version and kills itself, as `kill -9` does, at the given point.

crash.py DATA_FOLDER DATABASE_URL SOURCE POINT       POINT: a name of `POINTS`
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from multiflora_adapters.base_model import BaseModel, Site
from multiflora_adapters.store import ArtifactStore
from multiflora_platform.registry.artifacts.scratch import Scratch
from multiflora_platform.registry.intake import submissions as version_intake
from multiflora_platform.registry.intake import version_checks
from multiflora_platform.registry.intake.submissions import VersionRequest
from multiflora_platform.registry.rows import jobs, versions
from multiflora_platform.registry.schemas.fields import AdapterFields
from multiflora_platform.registry.service import Registry
from multiflora_platform.registry.serving.base_links import BaseLink
from multiflora_platform.registry.sources import remote as remote_source
from multiflora_platform.storage.database import Database
from multiflora_platform.storage.outbox_follower import Follower

SITE = "model.layers.0.self_attn.q_proj"


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str) -> None:
    setattr(owner, name, die)


def after(owner: Any, name: str) -> None:
    function = getattr(owner, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        result = function(*arguments, **named)
        if asyncio.iscoroutine(result):
            return _then_die(result)
        return die()

    setattr(owner, name, wrapped)


async def _then_die(awaited: Any) -> None:
    await awaited
    die()


# In order: what the process was about to do, or had just done, when it was killed.
POINTS: dict[str, Callable[[Registry], None]] = {
    "copied": lambda _: before(version_intake.idempotency, "recall"),
    "staged": lambda _: after(Scratch, "adopt"),
    "filing": lambda _: after(jobs, "create"),
    "filed": lambda registry: before(registry._runner, "kick"),
    "claimed": lambda registry: before(registry._runner, "_begin"),
    "fetching": lambda _: before(remote_source, "_fetch_file"),
    "fetched": lambda _: before(remote_source, "require_complete"),
    "validating": lambda _: before(version_checks, "validate_adapter"),
    "storing": lambda registry: before(registry._artifacts.store, "_publish"),
    "stored": lambda registry: after(registry._artifacts.store, "add"),
    "probing": lambda _: before(version_checks, "probe"),
    "recording": lambda _: after(versions, "finish"),
    "recorded": lambda registry: before(registry._snapshots, "swap"),
    "cleaning": lambda registry: before(registry._scratch, "remove"),
}


async def main(data: Path, database_url: str, source: str, point: str) -> None:
    store = ArtifactStore(data / "artifacts")
    base = BaseModel("tiny", "LlamaForCausalLM", "b" * 64, 1, {SITE: Site(SITE, 8, 8, 0)})
    database = await Database.prepared(database_url)
    follower = Follower(database)
    await follower.start()
    registry = await Registry.open(
        database, follower, store, BaseLink(base), 8, scratch=data / "incoming", source_roots=[Path("/")]
    )
    await registry.adapters.create("a", AdapterFields(), "test")
    POINTS[point](registry)
    await registry.intake.add_source(VersionRequest("a", "test", key="k", wait=30.0), source)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]))
