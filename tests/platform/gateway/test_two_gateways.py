"""Two gateways on one PostgreSQL database: to tenants they are one, over HTTP, with real keys, limits and adapters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.platform.gateway.house import House
from tests.platform.registry.conftest import postgres, postgres_schema
from tests.platform.registry.house import ADMIN, opening
from tests.platform.registry.house import House as RegistryHouse
from tests.platform.registry.postgres import Server

from multiflora_platform.auth.budgets import BudgetedLimits
from multiflora_platform.auth.limits.opening import open_limits
from multiflora_platform.registry.changes.rollout_observations import RequestOutcome
from multiflora_platform.registry.snapshot.snapshot import RolloutEntry
from multiflora_platform.server.app import create_app

__all__ = ["postgres", "postgres_schema"]
BODY = {"model": "base", "prompt": "Say", "max_tokens": 3}


@dataclass
class Gateway:
    """Only its engine plays."""

    house: House
    registry: RegistryHouse

    async def ask(self, key: str, **body: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"}
        return await self.house.http.post("/v1/completions", json={**BODY, **body}, headers=headers)


@pytest.fixture
async def gateways(
    make_house: Callable[..., House], postgres: Server, postgres_schema: str, tmp_path: Path
) -> AsyncIterator[list[Gateway]]:
    async with opening(tmp_path / "registry", postgres.empty(postgres_schema)) as make:
        made = [await gateway(make_house(), await make()) for _ in range(2)]
        yield made
        for one in made:
            await one.house.http.aclose()
            await one.house.services.limits.close()


async def gateway(house: House, registry: RegistryHouse) -> Gateway:
    services = house.services
    services.registry, services.keys, services.usage = registry.registry, registry.keys, registry.usage
    services.limits = BudgetedLimits(registry.budgets, open_limits(registry.database))
    house.engine.reply = "x"
    transport = httpx.ASGITransport(create_app(services))
    house.http = httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=registry.admin.headers)
    return Gateway(house, registry)


async def tenant_key(gateways: list[Gateway], **limits: int) -> str:
    """Of a tenant with these limits; all gateways know it."""
    keys = gateways[0].registry.keys
    await keys.tenants.create("test", "acme", **limits)
    key = (await keys.create_key("test", name="k", role="tenant", tenant="acme")).key
    for one in gateways[1:]:
        await until(lambda one=one: one.registry.keys.authenticate(f"Bearer {key}"))  # type: ignore[misc]
    return key


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the other gateway sends no signal
            await asyncio.sleep(0.005)


async def test_sixty_requests_a_minute_are_sixty(gateways: list[Gateway]) -> None:
    key, began = await tenant_key(gateways, requests_per_minute=60), time.monotonic()
    answers = await asyncio.gather(*(gateways[number % 2].ask(key) for number in range(130)))
    passed = [answer for answer in answers if answer.status_code == 200]
    assert 60 <= len(passed) <= 60 + (time.monotonic() - began)
    refused = [answer for answer in answers if answer.status_code != 200]
    assert {answer.json()["error"]["code"] for answer in refused} == {"rate_limit_exceeded"}
    assert all(int(answer.headers["retry-after"]) == 1 for answer in refused)
    assert answers[-1].headers["x-ratelimit-remaining-requests"] == "0"


async def test_three_long_requests_are_three(gateways: list[Gateway]) -> None:
    key = await tenant_key(gateways, max_concurrent_requests=3)
    for one in gateways:
        one.house.engine.hangs = True
    asked = [asyncio.create_task(gateways[number % 2].ask(key)) for number in range(8)]
    await until(lambda: sum(task.done() for task in asked) == 5)
    assert {task.result().status_code for task in asked if task.done()} == {429}
    running = next(task for task in asked if not task.done())
    running.cancel()
    for one in gateways:
        one.house.engine.hangs = False
    async with asyncio.timeout(30):
        while (await gateways[1].ask(key)).status_code == 429:
            pass
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)


async def test_a_budget_is_used_up_by_both_together(gateways: list[Gateway]) -> None:
    key = await tenant_key(gateways, budget_tokens_per_day=21)
    for one in gateways:
        assert (await one.ask(key, prompt="x" * 8, max_tokens=2)).status_code == 200
        await one.registry.usage.flush()
    for one in gateways:
        async with asyncio.timeout(30):
            while (refused := await one.ask(key)).status_code == 200:
                await one.registry.usage.flush()
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "budget_exceeded")
        assert "21 tokens per day is used up; it begins anew at" in refused.json()["error"]["message"]
        assert 0 < int(refused.headers["retry-after"]) <= 86_400


async def test_a_key_and_a_tenant_are_refused_where_they_were_not_changed(gateways: list[Gateway]) -> None:
    one, other = gateways
    key = await tenant_key(gateways)
    (made,) = await one.registry.keys.keys(tenant="acme")

    async def becomes(status: int) -> None:
        async with asyncio.timeout(30):
            while (await other.ask(key)).status_code != status:  # noqa: ASYNC110 - `one` sends no signal
                await asyncio.sleep(0.02)

    await one.registry.keys.tenants.amend("test", "acme", requests_per_minute=1)
    await becomes(429)
    await one.registry.keys.tenants.amend("test", "acme", requests_per_minute=None)
    await becomes(200)
    await one.registry.keys.tenants.amend("test", "acme", disabled=True)
    await becomes(403)
    await one.registry.keys.tenants.amend("test", "acme", disabled=False)
    await becomes(200)
    await one.registry.keys.revoke_key("test", made.id)
    await becomes(401)


async def test_an_alias_that_moves_under_load_means_one_version_and_never_an_old_one_again(
    gateways: list[Gateway],
) -> None:
    one, _ = gateways
    await one.registry.adapter("a", 1, 2, 3, 4)
    numbers = {digest: number for number, digest in one.registry.registry.adapter("a").digests.items()}
    await until(lambda: all(each.registry.registry.resolve("a@4", None) for each in gateways))
    is_over = asyncio.Event()

    async def load(gateway: Gateway, first_id: int) -> list[int]:
        """The versions that answered, one request after the other."""
        answered: list[int] = []
        while not is_over.is_set():
            mine = [first_id + len(answered) % 50]
            response = await gateway.ask(ADMIN, model="a", prompt=mine, user=str(len(answered)))
            assert response.status_code == 200, response.text
            request = next(r for r in reversed(gateway.house.engine.requests) if r.prompt_token_ids == mine)
            answered.append(numbers[request.adapter_digest or ""])
        return answered

    loads = [asyncio.create_task(load(each, start)) for each in gateways for start in (0, 100)]
    for version in (2, 3, 4):
        moved = await one.registry.admin.put(
            "/adapters/a/aliases/default", json={"version": version}, headers={"If-Match": "*"}
        )
        assert moved.status_code == 200, moved.text
        await until(
            lambda version=version: all(  # type: ignore[misc]
                each.registry.registry.resolve("a", None).version == version for each in gateways
            )
        )
    is_over.set()
    for answered in await asyncio.gather(*loads):
        assert answered == sorted(answered)
        assert answered[-1] in (3, 4)


async def test_a_canary_gives_a_user_the_same_version_through_both(gateways: list[Gateway]) -> None:
    one, other = gateways
    await one.registry.adapter("a", 1, 2)
    path, headers = "/adapters/a/aliases/default", {"If-Match": "*"}
    await one.registry.admin.put(path, json={"split": {"1": 60, "2": 40}}, headers=headers)
    users = [str(number) for number in range(200)]

    def versions(gateway: Gateway) -> list[int]:
        found = [gateway.registry.registry.resolve("a", user) for user in users]
        return [each.version for each in found if each is not None]

    await until(lambda: set(versions(other)) == {1, 2})
    assert versions(one) == versions(other)
    assert 50 <= versions(one).count(2) <= 110


async def rollout(gateways: list[Gateway], **body: Any) -> RolloutEntry:
    """Of version 2 of `a`, known to both."""
    await gateways[0].registry.adapter("a", 1, 2)
    path = "/adapters/a/aliases/default/rollout"
    made = await gateways[0].registry.admin.post(path, json={"candidate": 2, **body}, headers={"If-Match": "*"})
    assert made.status_code == 201, made.text
    await until(lambda: all(running(each) for each in gateways))
    entry = running(gateways[0])
    assert entry is not None
    return entry


def running(gateway: Gateway) -> RolloutEntry | None:
    entry = gateway.registry.registry.snapshot.adapters.get("a")
    alias = entry.aliases.get("default") if entry else None
    return alias.rollout if alias else None


async def shown(gateway: Gateway) -> dict[str, Any]:
    answer: dict[str, Any] = (await gateway.registry.admin.get("/adapters/a/aliases/default/rollout")).json()
    return answer


async def until_seen(gateway: Gateway, requests: int) -> None:
    """So many of the candidate's, of all gateways."""
    async with asyncio.timeout(30):
        while ((await shown(gateway))["candidate_observed"] or {}).get("requests") != requests:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_rollout_is_judged_by_what_both_have_seen_and_once(gateways: list[Gateway]) -> None:
    entry = await rollout(gateways, percent=50, max_error_rate=0.2, min_samples=10)
    for each, bad in zip(gateways, (3, 1), strict=True):
        for number in range(6):
            each.registry.registry.rollouts.observe(entry, 2, RequestOutcome(number >= bad, 0.1))
    await until(lambda: not any(running(each) for each in gateways))
    for each in gateways:
        ended = await shown(each)
        assert (ended["state"], ended["candidate_observed"]["requests"]) == ("rolled_back", 12)
        assert "33.3%" in ended["reason"]
    events = (await gateways[0].registry.admin.get("/events?limit=1000")).json()["items"]
    assert [event["type"] for event in events].count("rollout.rolled_back") == 1


async def test_a_step_is_made_once_its_requests_are_there_in_all(gateways: list[Gateway]) -> None:
    entry = await rollout(gateways, steps=[1, 30], step_seconds=0.01, min_samples=4)
    for each in gateways:
        for _ in range(2):
            each.registry.registry.rollouts.observe(entry, 2, RequestOutcome(True, 0.1))
    await until(lambda: [rollout.percent for each in gateways if (rollout := running(each))] == [30, 30])
    for each in gateways:
        await until_seen(each, 4)
    events = (await gateways[0].registry.admin.get("/events?limit=1000")).json()["items"]
    assert [event["type"] for event in events].count("rollout.stepped") == 1


async def test_what_a_server_saw_before_it_ended_still_counts(gateways: list[Gateway]) -> None:
    one, other = gateways
    entry = await rollout(gateways, percent=50, max_error_rate=0.2, min_samples=10)
    for _ in range(6):
        other.registry.registry.rollouts.observe(entry, 2, RequestOutcome(False, 0.1))
    await until_seen(one, 6)
    await other.registry.registry.rollouts.close()
    for _ in range(4):
        one.registry.registry.rollouts.observe(entry, 2, RequestOutcome(True, 0.1))
    await until(lambda: running(one) is None)
    assert "60.0%" in (await shown(one))["reason"]
