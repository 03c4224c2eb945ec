"""A registry with its keys, the UI's routes, and a browser-like client for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from tests.platform.registry.house import House, opening

from multiflora_platform.ui.routes import router


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with opening(tmp_path / "data") as make:
        house = await make()
        house.app.include_router(router)
        services = house.app.state.services
        services.model, services.max_model_len = SimpleNamespace(name="base"), 64
        yield house


@pytest.fixture
async def browser(house: House) -> AsyncIterator[httpx.AsyncClient]:
    """Keeps cookies, as a browser does; sends no Origin by itself."""
    transport = httpx.ASGITransport(app=house.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
