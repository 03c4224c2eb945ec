"""What contexts and marks cost and save is counted: for their tenant, their adapter and themselves."""

from __future__ import annotations

from typing import Any

import pytest
from tests.platform.gateway.background.conftest import BLOCK, RULES, ContextHouse
from tests.platform.gateway.house import BASE_DIGEST

from multiflora_platform.gateway.background.hold_metering import HoldMeter
from multiflora_platform.prices import prices_of

MARKED = [{"type": "text", "text": RULES[::-1], "cache_control": {"type": "ephemeral"}}]
ASKED = [{"role": "user", "content": "What do the rules say?"}]
PRICES = {"price_per_device_second": 2.0, "price_per_cached_token": 0.001, "price_per_stored_token_hour": 0.5}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(contexts: ContextHouse) -> Clock:
    """With prices."""
    clock, services = Clock(), contexts.house.services
    services.settings = services.settings.model_copy(update=PRICES)
    services.usage._prices = prices_of(services.settings)
    kept = contexts.kept
    kept.meter = HoldMeter(services, services.groups.default, kept.holds, clock)
    return clock


async def used(contexts: ContextHouse) -> dict[str | None, Any]:
    """By adapter."""
    answer = await contexts.acme.get("/api/v1/usage", params={"group_by": "adapter"})
    return {row["adapter"]: row for row in answer.json()["items"]}


async def test_what_is_held_is_counted_by_tokens_and_time(contexts: ContextHouse, clock: Clock) -> None:
    await contexts.registry.adapter("a", 1)
    shown = await contexts.put("rules", prompt=RULES, adapters=["base", "a"])
    await contexts.keeper.tend()
    marked = await contexts.acme.post(
        "/v1/messages", json={"model": "a", "max_tokens": 1, "system": MARKED, "messages": ASKED}
    )
    assert marked.status_code == 200, marked.text
    while contexts.kept.breakpoints._tasks:
        for task in list(contexts.kept.breakpoints._tasks):
            await task
    clock.now += 1800
    await contexts.keeper.tend()
    rows, tokens = await used(contexts), len(RULES) // BLOCK * BLOCK
    assert rows[None]["stored_token_hours"] == tokens / 2
    assert rows["a"]["stored_token_hours"] == pytest.approx(tokens, abs=BLOCK / 2), "the mark's, too"
    assert rows[None]["money"]["stored"] == tokens / 4
    metrics = (await contexts.house.http.get("/metrics")).text
    assert f'multiflora_held_token_seconds_total{{adapter="base",model_name="base"}} {tokens * 1800:.1f}' in metrics
    shown = await contexts.get("rules")
    assert (shown["stored_token_hours"], shown["money"]["stored"]) == (tokens, tokens / 2)
    await contexts.acme.patch("/api/v1/contexts/rules", json={"pin": False})
    await contexts.keeper.tend()
    clock.now += 1800
    await contexts.keeper.tend()
    assert (await contexts.get("rules"))["stored_token_hours"] == tokens, "it is held no more"


async def test_an_engine_that_ended_holds_nothing(contexts: ContextHouse, clock: Clock) -> None:
    await contexts.put("rules", prompt=RULES)
    await contexts.keeper.tend()
    contexts.cache.restart()
    clock.now += 3600
    contexts.kept.meter.count()
    assert (await contexts.get("rules"))["stored_token_hours"] == 0


async def test_what_requests_find_is_saved_and_what_was_lost_costs_again(contexts: ContextHouse, clock: Clock) -> None:
    """A token takes a hundredth of a second, as was learned; each computation a quarter, as was measured."""
    house = contexts.house
    savings = house.services.insight.savings[BASE_DIGEST]
    savings._computed, savings._prefill_seconds = 10**9, 10.0**7
    house.engine.device_seconds, house.engine.evicted_tokens = 0.25, 2
    made = await contexts.put("rules", prompt=RULES, pin=False)
    await contexts.keeper.tend()
    first = (await used(contexts))[None]
    assert (first["requests"], first["prompt_tokens"], first["money"]["device"]) == (0, made["tokens"], 0.5)
    assert first["cached_tokens"] + first["cache_write_tokens"] + first["uncached_tokens"] == made["tokens"]
    for _ in range(2):
        asked = {"model": "base", "prompt": "What do they say?", "context": "rules", "max_tokens": 1}
        assert (await contexts.acme.post("/v1/completions", json=asked)).status_code == 200
    whole = len(house.engine.requests[-1].prompt_token_ids)
    found = 2 * min(whole // 2, made["tokens"])
    shown = await contexts.get("rules")
    assert (shown["hits"], shown["found_tokens"]) == (2, found)
    assert shown["saved_seconds"] == pytest.approx(found / 100, rel=1e-3)
    assert shown["money"]["saved"] == pytest.approx(found * (0.02 - 0.001), rel=1e-3)
    assert shown["seconds_again"] == pytest.approx(0.04, rel=1e-3), "evicted, said the engine of both requests"
    contexts.cache.lose_all()
    (kept,) = contexts.kept.prefixes._kept.values()
    for prefix in kept.prefixes.values():
        prefix.look_at = 0.0
    await contexts.keeper.tend()
    again = await contexts.get("rules")
    assert again["status"] == "warm"
    assert again["seconds_again"] == pytest.approx(0.29, rel=1e-3)
    assert again["money"]["computed_again"] == pytest.approx(0.58, rel=1e-3)
    assert (await used(contexts))[None]["money"]["computed_again"] >= 0.5
