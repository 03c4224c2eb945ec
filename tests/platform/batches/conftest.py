"""A gateway with a real database, so that batches have rows; the engine is the scripted one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.platform.gateway.conftest import make_house, tokenizer
from tests.platform.gateway.house import House

from multiflora_platform.batches.service import BatchService, make_batch_service
from multiflora_platform.storage.database import Database
from multiflora_platform.storage.migrations import prepare

__all__ = ["make_house", "tokenizer"]


@pytest.fixture
async def house(make_house: Callable[..., House], tmp_path: Path) -> AsyncIterator[House]:
    url = f"sqlite:///{tmp_path / 'db.sqlite3'}"
    prepare(url)
    house = make_house()
    house.registry.database = Database.open(url)
    await open_batches(house).start()
    async with house.http:
        yield house
        await house.app.state.batches.close()
    await house.registry.database.close()


def open_batches(house: House) -> BatchService:
    """A new one over the same folder and database, as after a restart. Not started."""
    batches = make_batch_service(house.turns, house.services)
    house.app.state.batches = batches
    return batches
