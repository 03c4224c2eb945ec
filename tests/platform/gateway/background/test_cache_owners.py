"""A tenant's policy is asked for once by all who want it at the same time."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from multiflora_platform.auth.account_problems import TenantNotFound
from multiflora_platform.auth.policies import Policy
from multiflora_platform.gateway.background.cache_owners import CacheOwners


class Tenants:
    def __init__(self) -> None:
        self.asked: list[str] = []

    async def one(self, name: str) -> Any:
        self.asked.append(name)
        await asyncio.sleep(0)
        if name == "gone":
            raise TenantNotFound(name)
        return SimpleNamespace(id=len(name))

    async def policy(self, name: str) -> Policy:
        return Policy()


async def test_a_thousand_contexts_ask_for_their_owners_once() -> None:
    keys: Any = SimpleNamespace(tenants=Tenants())
    owners = CacheOwners(keys)
    found = await asyncio.gather(*(owners.principal(name) for name in ["acme", "umbrella", None] * 300))
    assert {(one.tenant, one.tenant_id) for one in found} == {("acme", 4), ("umbrella", 8), (None, None)}
    assert keys.tenants.asked == ["acme", "umbrella"]
    for _ in range(2):
        with pytest.raises(TenantNotFound):
            await owners.principal("gone")
