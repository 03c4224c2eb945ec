"""A registry for each test; `open_house` for tests that choose its options or open it twice. On both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.platform.registry.house import House, OpenHouse, opening
from tests.platform.registry.postgres import Server, running

from multiflora_platform.storage.migrations import upgrade

BACKENDS = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    with running() as server:
        if server is None:
            pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
        yield server


@pytest.fixture(scope="session")
def postgres_schema(postgres: Server) -> str:
    """A database with the schema, emptied for each test."""
    url = postgres.create()
    upgrade(url)
    return url.rpartition("/")[2]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database_url(backend: str, request: pytest.FixtureRequest) -> str | None:
    """Of an empty registry; None: SQLite in the data folder."""
    if backend == "sqlite":
        return None
    postgres: Server = request.getfixturevalue("postgres")
    return postgres.empty(request.getfixturevalue("postgres_schema"))


@pytest.fixture
async def open_house(tmp_path: Path, database_url: str | None) -> AsyncIterator[OpenHouse]:
    async with opening(tmp_path / "data", database_url) as make:
        yield make


@pytest.fixture
async def house(open_house: OpenHouse) -> House:
    return await open_house()
