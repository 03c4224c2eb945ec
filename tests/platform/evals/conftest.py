"""A gateway with a real registry, whose adapter `sql` has three versions; the engine is the scripted one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.platform.gateway.conftest import make_house, tokenizer
from tests.platform.gateway.house import House
from tests.platform.gateway.real_house import real_house
from tests.platform.registry.conftest import backend, database_url, postgres, postgres_schema
from tests.platform.registry.house import House as RegistryHouse

from multiflora_platform.evals.service import EvalService, make_eval_service

__all__ = ["backend", "database_url", "make_house", "postgres", "postgres_schema", "tokenizer"]
API = "/api/v1/adapters/sql"
CASE = {"prompt": "Say hello", "max_tokens": 20, "checks": [{"type": "contains", "text": "Hello"}]}


class EvalHouse:
    """Both halves of the server, and what tests of evals ask of it."""

    def __init__(self, house: House, registry: RegistryHouse) -> None:
        self.house, self.registry, self.engine, self.http = house, registry, house.engine, house.http

    async def call(self, method: str, path: str, body: Any = None, status: int = 200, **options: Any) -> Any:
        response = await self.http.request(method, API + path, json=body, **options)
        assert response.status_code == status, response.text
        return response.json() if response.content else None

    async def put(self, *cases: dict[str, Any], name: str = "smoke", status: int = 201, **fields: Any) -> Any:
        return await self.call("PUT", f"/evals/{name}", {"cases": list(cases), **fields}, status)

    async def run(self, name: str = "smoke", **target: Any) -> dict[str, Any]:
        """A run that has ended."""
        queued = await self.call("POST", f"/evals/{name}/runs", target, 202)
        return await self.until(queued["id"], "completed", "failed", "cancelled")

    async def until(self, run: int, *states: str) -> dict[str, Any]:
        async with asyncio.timeout(30):
            while True:
                found = (await self.call("GET", f"/eval-runs/{run}"))["run"]
                if found["state"] in states:
                    return dict(found)
                await asyncio.sleep(0.01)

    async def results(self, run: int) -> list[dict[str, Any]]:
        return list((await self.call("GET", f"/eval-runs/{run}"))["items"])

    def reopened(self) -> EvalService:
        """A new service over the same database, as after a restart. Not started."""
        service = self.house.app.state.evals = make_eval_service(self.house.turns, self.house.services)
        return service


@pytest.fixture
async def evals(make_house: Callable[..., House], tmp_path: Path, database_url: str | None) -> AsyncIterator[EvalHouse]:
    async with real_house(make_house, tmp_path / "data", database_url) as (house, registry):
        await registry.adapter("sql", 1, 2, 3)
        house.engine.reply = "Hello, 42"
        house.app.state.evals.runner.start()
        yield EvalHouse(house, registry)
        await house.app.state.evals.close()
