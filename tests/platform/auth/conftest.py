"""A registry for each test; `open_house` for tests that choose its options or open it twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.platform.registry.house import House, OpenHouse, opening


@pytest.fixture
async def open_house(tmp_path: Path) -> AsyncIterator[OpenHouse]:
    async with opening(tmp_path / "data") as make:
        yield make


@pytest.fixture
async def house(open_house: OpenHouse) -> House:
    return await open_house()
