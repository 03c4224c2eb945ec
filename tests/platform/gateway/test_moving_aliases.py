"""Aliases that move under load: no error, and no answer from a version that the alias did not mean at that time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from tests.platform.gateway.house import House
from tests.platform.registry.house import House as RegistryHouse
from tests.platform.registry.house import opening

from multiflora_platform.gateway.background.warming import PromptWarmer
from multiflora_platform.server.app import create_app

SECONDS = 3.0
PER_SECOND = 100  # moves, and as many requests


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[RegistryHouse]:
    async with opening(tmp_path / "registry") as make:
        yield await make()


@pytest.fixture
async def house(make_house: Callable[..., House], registry: RegistryHouse) -> AsyncIterator[House]:
    """The gateway with a real registry and real keys; only the engine plays."""
    house = make_house()
    house.services.registry, house.services.keys = registry.registry, registry.keys
    house.engine.reply = "x"
    app = create_app(house.services)
    house.http = httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://localhost", headers=registry.admin.headers
    )
    async with house.http:
        yield house


async def at_rate(seconds: float, rate: int, work: Callable[[int], Any]) -> None:
    began, tasks = time.monotonic(), []
    for number in range(int(seconds * rate)):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        tasks.append(asyncio.ensure_future(work(number)))
    await asyncio.gather(*tasks)


@pytest.mark.slow
async def test_moves_and_requests_at_200_a_second(house: House, registry: RegistryHouse) -> None:
    await registry.adapter("a", 1, 2, 3, 4)
    numbers = {digest: number for number, digest in registry.registry.adapter("a").digests.items()}
    moves: list[tuple[float, float, set[int]]] = [(0.0, 0.0, {1})]
    turn = asyncio.Lock()
    answers: list[tuple[float, float, int]] = []

    async def move(number: int) -> None:
        """begun, ended: the move happens between the two."""
        first, second = 1 + number % 4, 1 + (number + 1) % 4
        body = {"version": first} if number % 3 else {"split": {str(first): 60, str(second): 40}}
        async with turn:
            begun = time.monotonic()
            response = await registry.admin.put("/adapters/a/aliases/default", json=body, headers={"If-Match": "*"})
            assert response.status_code == 200, response.text
            moves.append((begun, time.monotonic(), {first} if number % 3 else {first, second}))

    async def ask(number: int) -> None:
        begun, before = time.monotonic(), len(house.engine.requests)
        body = {"model": "a", "prompt": [number], "max_tokens": 2, "user": str(number % 50)}
        response = await house.http.post("/v1/completions", json=body)
        assert response.status_code == 200, response.text
        mine = next(r for r in house.engine.requests[before:] if r.prompt_token_ids == [number])
        answers.append((begun, time.monotonic(), numbers[mine.adapter_digest or ""]))

    await asyncio.gather(
        at_rate(SECONDS, PER_SECOND, move),
        at_rate(SECONDS, PER_SECOND, lambda number: ask(number % 200)),
    )
    assert len(moves) == len(answers) + 1 == SECONDS * PER_SECOND + 1
    for begun, ended, version in answers:
        meant = [
            versions
            for (earliest, _, versions), latest in zip(moves, [*(m[1] for m in moves[1:]), float("inf")], strict=True)
            if earliest <= ended and begun <= latest
        ]
        assert any(version in versions for versions in meant), (version, meant)
    history = (await registry.admin.get("/adapters/a/aliases/default/history", params={"limit": 1000})).json()
    assert len(history["items"]) == len(moves)


async def test_warm_up_prompts_run_for_the_owners_cache(house: House, registry: RegistryHouse) -> None:
    acme = await registry.tenant("acme")
    await acme.post("/adapters", json={"name": "own", "warmup_prompts": ["Hello", "y" * 2000]})
    await registry.adapter("shared", 1)
    key = acme.headers["authorization"]
    principal = registry.keys.authenticate(key)
    assert principal is not None
    warmer = PromptWarmer(house.services.engine, house.services.model, registry.keys)
    await warmer.run("e" * 64, ["Hello", "y" * 2000], "acme")
    first, second = house.engine.requests
    assert first.cache_salt == registry.keys.cache_salt(principal)
    assert (first.params.max_tokens, first.adapter_digest) == (1, "e" * 64)
    assert len(second.prompt_token_ids) == house.services.max_model_len - 1
    await warmer.run("e" * 64, ["Hello"], None)
    assert house.engine.requests[-1].cache_salt not in (first.cache_salt, "")


async def test_a_clients_own_deadline_does_not_count_against_a_candidate(house: House, registry: RegistryHouse) -> None:
    await registry.adapter("a", 1, 2)
    path = "/adapters/a/aliases/default"
    body = {"candidate": 2, "percent": 99, "min_samples": 1}
    assert (await registry.admin.post(f"{path}/rollout", json=body, headers={"If-Match": "*"})).status_code == 201
    house.engine.failure = SimpleNamespace(code="deadline_exceeded", message="The deadline passed.")  # type: ignore[assignment]
    for number in range(10):
        sent = {"model": "a", "prompt": "x", "max_tokens": 2, "user": str(number)}
        late = await house.http.post("/v1/completions", json=sent, headers={"X-Request-Timeout": "0.02"})
        assert late.status_code == 504
    await registry.registry.rollouts.close()
    rollout = (await registry.admin.get(f"{path}/rollout")).json()
    assert rollout["state"] == "running"
    assert all(not (seen or {}).get("errors") for seen in (rollout["stable_observed"], rollout["candidate_observed"]))


async def test_an_automatic_rollback_through_the_whole_gateway(house: House, registry: RegistryHouse) -> None:
    """The candidate's adapter cannot be loaded: its first request fails, and nobody else's."""
    await registry.adapter("a", 1, 2)
    candidate = registry.registry.adapter("a").digests[2]
    generate = house.engine.generate

    def refuse_candidate(request: Any) -> Any:
        house.engine.failure = None
        if request.adapter_digest == candidate:
            house.engine.failure = SimpleNamespace(code="adapter_unavailable", message="its file is gone")  # type: ignore[assignment]
        return generate(request)

    house.engine.generate = refuse_candidate  # type: ignore[method-assign]
    path = "/adapters/a/aliases/default"
    started = await registry.admin.post(
        f"{path}/rollout", json={"candidate": 2, "percent": 50}, headers={"If-Match": "*"}
    )
    assert started.status_code == 201
    statuses = []
    for number in range(40):
        body = {"model": "a", "prompt": "x", "max_tokens": 2, "user": str(number)}
        statuses.append((await house.http.post("/v1/completions", json=body)).status_code)
        await registry.registry.rollouts.close()
    assert statuses.count(503) == 1
    assert (await registry.admin.get(f"{path}/rollout")).json()["state"] == "rolled_back"
