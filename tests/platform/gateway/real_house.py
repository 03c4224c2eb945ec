"""The gateway with a real registry and real keys; only the engine plays."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from tests.platform.gateway.house import House
from tests.platform.registry.house import ADMIN as ADMIN_KEY
from tests.platform.registry.house import House as RegistryHouse
from tests.platform.registry.house import opening

from multiflora_platform.contexts.service import Contexts
from multiflora_platform.registry.shadow_runs import Shadows
from multiflora_platform.server.app import create_app


@asynccontextmanager
async def real_house(
    make_house: Callable[..., House], folder: Path, database_url: str | None = None
) -> AsyncIterator[tuple[House, RegistryHouse]]:
    """house.http is an admin's. database_url: of an empty registry; None: SQLite in the folder."""
    async with opening(folder, database_url) as make:
        services = (house := make_house()).services
        registry = await make(engine=services.engine)
        services.registry, services.keys, services.usage = registry.registry, registry.keys, registry.usage
        services.budgets = registry.budgets
        services.webhooks = registry.webhooks
        services.contexts = await Contexts.open(registry.database, registry.follower)
        services.shadows = Shadows(registry.registry.rollouts, registry.registry.lease)
        house.app = create_app(services)
        house.engine.reply = "x"
        house.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(house.app),
            base_url="http://localhost",
            headers={"Authorization": f"Bearer {ADMIN_KEY}"},
        )
        async with house.http:
            yield house, registry
        await services.contexts.close()
        await services.shadows.close()
