"""A gateway with a real database, so that batches have rows; the engine is the scripted one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.platform.gateway.conftest import make_house, tokenizer
from tests.platform.gateway.house import House

from multiflora_platform.batches.desk import Desk, make_desk
from multiflora_platform.storage.database import Database
from multiflora_platform.storage.migrations import prepare

__all__ = ["make_house", "tokenizer"]


@pytest.fixture
async def house(make_house: Callable[..., House], tmp_path: Path) -> AsyncIterator[House]:
    url = f"sqlite:///{tmp_path / 'db.sqlite3'}"
    prepare(url)
    house = make_house()
    house.registry.database = Database.open(url)
    open_desk(house).runner.start()
    async with house.http:
        yield house
        await house.app.state.desk.runner.close()
    await house.registry.database.close()


def open_desk(house: House) -> Desk:
    """A new one over the same folder and database, as after a restart. Not started."""
    desk = make_desk(house.app, house.services)
    house.app.state.desk = desk
    return desk
