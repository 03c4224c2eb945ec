"""How a registry of 10,000 adapters with three versions each answers, on SQLite: start, lists, searches, names.

    python benchmarks/registry.py [ADAPTERS]

The rows are put in at once; everything measured goes through the registry and its routes as a server has them.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
from fastapi import FastAPI
from sqlalchemy import insert

from multiflora_adapters.base_model import BaseModel, Site
from multiflora_adapters.store import ArtifactStore
from multiflora_platform.auth.keys import KeyStore
from multiflora_platform.registry.service import Registry
from multiflora_platform.registry.serving.base_links import BaseLink
from multiflora_platform.server.rest_api import router
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.migrations import upgrade
from multiflora_platform.storage.outbox_follower import Follower
from multiflora_platform.storage.tables import (
    AdapterRow,
    AliasRow,
    VersionLabelRow,
    VersionRow,
)

VERSIONS = 3
REPETITIONS = 200
KEY = "mf-benchmark"
SITE = "model.layers.0.self_attn.q_proj"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
BASE = BaseModel("benchmark", "LlamaForCausalLM", "b" * 64, 1, {SITE: Site(SITE, 8, 8, 0)})


def rows(adapters: int) -> dict[Any, list[dict[str, Any]]]:
    names = [f"adapter-{number:05}" for number in range(adapters)]
    found: dict[Any, list[dict[str, Any]]] = {AdapterRow: [], VersionRow: [], VersionLabelRow: [], AliasRow: []}
    for adapter_id, name in enumerate(names, start=1):
        moments = {"created_at": NOW, "updated_at": NOW}
        described = {"description": f"answers about topic {adapter_id % 997}", "tags": [f"team-{adapter_id % 20}"]}
        found[AdapterRow].append({"id": adapter_id, "name": name, **described, "warmup_prompts": [], **moments})
        for number in range(1, VERSIONS + 1):
            version_id = (adapter_id - 1) * VERSIONS + number
            found[VersionRow].append(version(version_id, adapter_id, number))
            label = {"version_id": version_id, "kind": "dataset", "value": f"set-{adapter_id % 500}"}
            found[VersionLabelRow].append(label)
        found[AliasRow].append(
            {
                "adapter_id": adapter_id,
                "name": "default",
                "target": {"version": 1},
                "layout": [1] * 100,
                "revision": adapter_id,
                "protected": False,
                "updated_at": NOW,
            }
        )
    return found


def version(version_id: int, adapter_id: int, number: int) -> dict[str, Any]:
    config = {"r": 16, "lora_alpha": 32, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "use_dora": False}
    return {
        "id": version_id,
        "adapter_id": adapter_id,
        "number": number,
        "state": "ready",
        "digest": hashlib.sha256(str(version_id).encode()).hexdigest(),
        "base_digest": BASE.digest,
        "manifest": {"config": config, "max_rank": 16, "dtype": "bfloat16", "num_bytes": 83_886_080},
        "source": "upload",
        "created_by": "benchmark",
        "created_at": NOW,
        "updated_at": NOW,
    }


async def fill(url: str, adapters: int) -> None:
    database = Database.open(url)

    async def work(change: Change) -> None:
        for table, values in rows(adapters).items():
            await change.session.execute(insert(table), values)

    await database.write("benchmark", work)
    await database.close()


@asynccontextmanager
async def opened(folder: Path, url: str) -> AsyncIterator[tuple[Registry, float]]:
    """The registry and the seconds of CPU that its start took."""
    start = time.process_time()
    async with AsyncExitStack() as stack:
        database = await Database.prepared(url)
        stack.push_async_callback(database.close)
        follower = Follower(database)
        await follower.start()
        stack.push_async_callback(follower.close)
        store = ArtifactStore(folder / "artifacts")
        registry = await Registry.open(database, follower, store, BaseLink(BASE), 64, scratch=folder / "incoming")
        stack.push_async_callback(registry.close)
        yield registry, time.process_time() - start


async def p95(call: Callable[[int], Awaitable[Any]]) -> tuple[float, ...]:
    """Milliseconds by the clock, and of CPU."""
    times, cpu = [], []
    for repetition in range(REPETITIONS):
        start, start_cpu = time.perf_counter(), time.process_time()
        await call(repetition)
        times.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    return tuple(sorted(values)[int(0.95 * len(values))] * 1e3 for values in (times, cpu))


async def measure(folder: Path, adapters: int) -> None:
    url = f"sqlite:///{folder / 'multiflora.db'}"
    upgrade(url)
    async with opened(folder, url) as (_, seconds_empty):
        pass
    await fill(url, adapters)
    async with opened(folder, url) as (registry, seconds):
        print(f"start: {seconds - seconds_empty:.2f} s of CPU more than with an empty registry ({seconds_empty:.2f} s)")
        start = time.process_time()
        for number in range(100_000):
            assert registry.resolve(f"adapter-{number % adapters:05}@default", "a user")
        print(f"resolve: {(time.process_time() - start) * 10:.2f} us of CPU")
        await lists(registry, folder, adapters)


async def lists(registry: Registry, folder: Path, adapters: int) -> None:
    keys = await KeyStore.open(registry.database, registry.follower, folder, admin_keys=[KEY])
    app = FastAPI()
    app.state.services = SimpleNamespace(registry=registry, keys=keys)
    app.include_router(router)
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://registry/api/v1", headers=headers
    ) as client:

        async def get(path: str, **query: Any) -> None:
            response = await client.get(path, params=query)
            assert response.status_code == 200, response.text
            assert response.json()["items"], (path, query)

        middle = (await client.get("/adapters", params={"limit": 1000})).json()["next_page_token"]
        calls: dict[str, Callable[[int], Awaitable[None]]] = {
            "first page of adapters": lambda n: get("/adapters"),
            "page of adapters after 1,000": lambda n: get("/adapters", page_token=middle),
            "search by part of a description": lambda n: get("/adapters", q=f"TOPIC {n}"),
            "search by part of a rare name": lambda n: get("/adapters", q=f"{(adapters - 1 - n):05}"),
            "adapters with a tag": lambda n: get("/adapters", tag=f"team-{n % 20}"),
            "newest versions of all": lambda n: get("/versions"),
            "versions trained on a dataset": lambda n: get("/versions", dataset=f"set-{n % 500}"),
            "versions of one adapter": lambda n: get(f"/adapters/adapter-{n:05}/versions"),
        }
        for name, call in calls.items():
            clock, cpu = await p95(call)
            print(f"{name}: p95 {clock:.1f} ms, of CPU {cpu:.1f} ms")
    await keys.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(measure(Path(scratch), int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
