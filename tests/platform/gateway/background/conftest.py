"""A gateway with a real registry; its scripted engine has the blocks that it was asked for, pins and loses them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from tests.platform.gateway.house import READY, FakeClient, House
from tests.platform.gateway.real_house import real_house
from tests.platform.registry.house import House as RegistryHouse

from multiflora_engine.cache.block_hashes import HASH_BYTES, prompt_hashes
from multiflora_engine.protocol.messages import CacheReply
from multiflora_platform.gateway.background.context_keeper import ContextKeeper
from multiflora_platform.gateway.background.group_keeper import GroupKeeper

BLOCK = READY.block_size
RULES = "Answer briefly, cite the handbook, and never guess what you do not know."


class ScriptedCache:
    """Of one base model's engine. pins: hashes, hexadecimal. lost: of the requests so far, those whose blocks are
    gone."""

    def __init__(self, house: House, client: FakeClient, supervisor: Any, base_digest: str) -> None:
        self._house = house
        self._client = client
        self._supervisor = supervisor
        self._base_digest = base_digest
        self.pins: set[str] = set()
        self._lost = 0
        client.cache = self.cache  # type: ignore[method-assign]

    def lose_all(self) -> None:
        """What is not pinned."""
        self._lost = len(self._client.requests)

    def restart(self) -> None:
        self.pins.clear()
        self.lose_all()
        self._supervisor.restarts += 1

    async def cache(self, action: str, hash: str = "", chain: bytes = b"", *rest: int) -> CacheReply:
        if action == "release":
            self.pins.discard(hash)
        if action == "hold":
            if bytes.fromhex(hash) not in self._cached():
                return CacheReply(0, "That prefix is not cached any more.")
            self.pins.add(hash)
        cached = self._cached()
        hashes = [chain[at : at + HASH_BYTES] for at in range(0, len(chain), HASH_BYTES)]
        return CacheReply(0, found=next((i for i, one in enumerate(hashes) if one not in cached), len(hashes)))

    def _cached(self) -> set[bytes]:
        found: set[bytes] = set()
        for number, request in enumerate(self._client.requests):
            registry = self._house.services.registry
            reach, ids = registry.snapshot.kv_reach(request.adapter_digest), request.prompt_token_ids
            hashes = prompt_hashes(self._base_digest, reach, request.cache_salt, ids, BLOCK)
            pinned = max((at for at, one in enumerate(hashes, 1) if one.hex() in self.pins), default=0)
            found |= {*(hashes if number >= self._lost else hashes[:pinned])}
        return found


class ContextHouse(SimpleNamespace):
    """house, registry, cache, keeper, kept: that of the base model; and acme: a tenant's client of the whole server."""

    house: House
    registry: RegistryHouse
    cache: ScriptedCache
    keeper: ContextKeeper
    kept: GroupKeeper
    acme: httpx.AsyncClient

    async def put(self, name: str, client: httpx.AsyncClient | None = None, **body: Any) -> Any:
        body = body or {"messages": [{"role": "system", "content": RULES}]}
        answer = await (client or self.acme).put(f"/api/v1/contexts/{name}", json=body)
        assert answer.is_success, answer.text
        return answer.json()

    async def get(self, name: str, client: httpx.AsyncClient | None = None) -> Any:
        answer = await (client or self.acme).get(f"/api/v1/contexts/{name}")
        assert answer.is_success, answer.text
        return answer.json()

    async def tenant(self, name: str) -> httpx.AsyncClient:
        key = (await self.registry.tenant(name)).headers["authorization"]
        transport = httpx.ASGITransport(self.house.app)
        return httpx.AsyncClient(transport=transport, base_url="http://localhost", headers={"Authorization": key})

    async def events(self) -> list[str]:
        items = (await self.registry.admin.get("/events")).json()["items"]
        return [item["type"] for item in items if item["type"].startswith("context.")]


@pytest.fixture
async def contexts(make_house: Callable[..., House], tmp_path: Path) -> AsyncIterator[ContextHouse]:
    async with real_house(make_house, tmp_path / "registry") as (house, registry):
        house.engine.ready = replace(READY, max_model_len=1024, num_blocks=128, kv_bytes=1280)
        cache = ScriptedCache(house, house.engine, house.supervisor, registry.base.digest)
        keeper = house.app.state.keeper
        kept = keeper.of(house.services.groups.default)
        made = ContextHouse(house=house, registry=registry, cache=cache, keeper=keeper, kept=kept)
        made.acme = await made.tenant("acme")
        yield made
