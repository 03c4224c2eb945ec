"""A registry behind a client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from tests.platform.registry.house import ADMIN, House, opening

from multiflora.client import AsyncClient


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with opening(tmp_path / "data") as make:
        yield await make()


@pytest.fixture
async def client(house: House) -> AsyncIterator[AsyncClient]:
    transport = httpx.ASGITransport(app=house.app)
    async with AsyncClient("http://test", ADMIN, transport=transport) as client:
        yield client
