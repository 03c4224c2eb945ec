"""Budgets of tokens and money by day and month: what counts, when they are used up, and when they begin anew."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from multiflora_platform.auth.budgets import WARNING_EVENT, Budgets
from multiflora_platform.auth.policies import Budget, Policy
from multiflora_platform.auth.principals import Principal
from multiflora_platform.auth.usage import Counts
from multiflora_platform.prices import Prices
from multiflora_platform.settings import Settings
from multiflora_platform.web.problems import Unavailable
from multiflora_platform.web.refusals import BudgetExceeded

PRICES = Prices("EUR", device_second=2.0)


def acme(*budgets):
    return Principal("tenant", "acme", "k", 1, policy=Policy(budgets=budgets))


def used(house, tokens=0, device_seconds=0.0, tenant="acme", adapter="sql"):
    counts = Counts(1, tokens // 2, completion_tokens=tokens - tokens // 2, device_us=round(device_seconds * 1e6))
    house.usage.row(tenant, adapter).add(counts)


async def is_open(budgets, who):
    try:
        await budgets.check(who)
    except BudgetExceeded:
        return False
    return True


async def warnings(house):
    events = (await house.admin.get("/events?limit=1000")).json()["items"]
    return [event["payload"] for event in events if event["type"] == WARNING_EVENT]


async def test_tokens_of_a_day_are_prompts_and_answers_written_or_not(house):
    budgets, who = Budgets(house.database, house.usage, None), acme(Budget("tokens", "day", 100))
    assert await is_open(budgets, who)
    used(house, 60)
    await house.usage.flush()
    used(house, 39)
    used(house, 500, tenant="other")
    assert await is_open(budgets, who)
    used(house, 1, adapter="another")
    with pytest.raises(BudgetExceeded, match="budget of 100 tokens per day is used up; it begins anew at") as caught:
        await budgets.check(who)
    assert 0 < caught.value.retry_after <= 86_400
    await house.usage.flush()
    assert not await is_open(budgets, who)
    assert await is_open(budgets, acme(Budget("tokens", "day", 101), Budget("tokens", "month", 1000)))
    assert await is_open(budgets, acme())
    assert await is_open(budgets, Principal("admin", None, "k"))


async def test_a_day_and_a_month_begin_anew(house):
    now = datetime.now(UTC)
    budgets = Budgets(house.database, house.usage, None, lambda: now)
    day, month = acme(Budget("tokens", "day", 100)), acme(Budget("tokens", "month", 100))
    used(house, 100)
    assert (await is_open(budgets, day), await is_open(budgets, month)) == (False, False)
    with pytest.raises(BudgetExceeded) as caught:
        await budgets.check(month)
    anew = now + timedelta(seconds=caught.value.retry_after)
    assert (anew.month, anew.day, anew.hour) == (now.month % 12 + 1, 1, 0)
    now += timedelta(days=1)
    assert await is_open(budgets, day)
    assert await is_open(budgets, month) == (now.day == 1)
    now = anew
    assert await is_open(budgets, month)


async def test_money_is_what_usage_is_told_in(house):
    budgets, who = Budgets(house.database, house.usage, PRICES), acme(Budget("money", "month", 5.0))
    used(house, 10, device_seconds=2.4)
    assert await is_open(budgets, who)
    used(house, 10, device_seconds=0.1)
    with pytest.raises(BudgetExceeded, match=r"budget of 5\.00 EUR per month"):
        await budgets.check(who)


async def test_a_warning_is_told_once_in_a_period(open_house):
    houses = [await open_house(), await open_house()]
    house = houses[0]
    who = acme(Budget("tokens", "day", 100), Budget("tokens", "month", 1000))
    await house.keys.tenants.create("test", "acme", budget_tokens_per_day=100, budget_tokens_per_month=1000)
    servers = [Budgets(each.database, each.usage, None) for each in houses]
    used(house, 79)
    await servers[0].check(who)
    await house.usage.flush()
    assert await warnings(house) == []
    used(house, 1)
    await house.usage.flush()
    await servers[0].look({"acme", "other"})
    for _ in range(2):
        for server in servers:
            await server.check(who)
    (told,) = await until(lambda: warnings(house))
    assert {name: told[name] for name in ("tenant", "budget", "amount", "used")} == {
        "tenant": "acme", "budget": "tokens_per_day", "amount": 100, "used": 80,
    }  # fmt: skip
    await house.keys.tenants.amend("test", "acme", budget_tokens_per_day=90)
    await servers[0].check(acme(Budget("tokens", "day", 90)))
    told = await until(lambda: warnings(house), 2)
    assert [one["amount"] for one in told] == [100, 90]


async def until(ask, count=1):
    async with asyncio.timeout(30):
        while len(found := await ask()) < count:  # noqa: ASYNC110 - the event has no signal
            await asyncio.sleep(0.005)
    return found


async def test_while_the_database_is_away_what_is_known_counts(house, monkeypatch):
    budgets, who = Budgets(house.database, house.usage, None), acme(Budget("tokens", "day", 100))

    async def away(*_):
        raise Unavailable("The database does not answer; try again.")

    with monkeypatch.context() as patched:
        patched.setattr(house.usage, "written", away)
        with pytest.raises(Unavailable):
            await budgets.check(who)
    used(house, 60)
    await house.usage.flush()
    assert await is_open(budgets, who)
    monkeypatch.setattr(house.usage, "written", away)
    house.usage.writes += 1
    assert await is_open(budgets, who)
    used(house, 40)
    assert not await is_open(budgets, who)


async def test_over_http(house):
    tenant = await house.tenant("acme")
    refused = await house.admin.patch("/tenants/acme", json={"budget_money_per_day": 5})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (400, "/budget_money_per_day")
    house.app.state.services.settings = Settings(data_dir=house.data, price_per_device_second=2.0)
    house.app.state.services.budgets._prices = PRICES
    fields = {"budget_tokens_per_day": 100, "budget_money_per_month": 5.5}
    changed = (await house.admin.patch("/tenants/acme", json=fields)).json()
    assert changed | fields == changed
    assert (changed["budget_tokens_per_month"], changed["budget_money_per_day"]) == (None, None)
    used(house, 25, device_seconds=0.5)
    await house.tenant("other")
    answer = (await house.admin.get("/budgets")).json()
    tokens, money = answer["items"]
    assert (tokens["tenant"], tokens["unit"], tokens["period"]) == ("acme", "tokens", "day")
    assert (tokens["amount"], tokens["used"], tokens["currency"]) == (100, 25, None)
    assert (money["unit"], money["period"]) == ("money", "month")
    assert (money["amount"], money["used"], money["currency"]) == (5.5, 1.0, "EUR")
    assert tokens["begins_anew_at"].endswith("T00:00:00+00:00")
    assert (await tenant.get("/budgets")).json() == answer
    assert (await tenant.get("/budgets?tenant=other")).status_code == 403
    assert (await house.admin.get("/budgets?tenant=other")).json()["items"] == []
    for wrong in ({"budget_tokens_per_day": 0}, {"budget_money_per_day": -1}, {"budget_tokens_per_month": "1"}):
        assert (await house.admin.patch("/tenants/acme", json=wrong)).status_code == 400, wrong
    lifted = (await house.admin.patch("/tenants/acme", json=dict.fromkeys(fields))).json()
    assert {lifted[name] for name in fields} == {None}
