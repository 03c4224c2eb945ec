"""Usage: added up, written in intervals, exact up to the last write, filtered and paged."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime

import pytest

from multiflora_platform.auth import usage
from multiflora_platform.auth.usage import Counts, UsageLedger
from multiflora_platform.prices import Prices
from multiflora_platform.web.problems import Unavailable

TODAY = "2026-03-05"


@pytest.fixture(autouse=True)
def noon(monkeypatch):
    """The day does not end while a test runs."""
    now = datetime.fromisoformat(f"{TODAY}T12:00:00+00:00").timestamp()
    monkeypatch.setattr(usage.time, "time", lambda: now)


async def rows(client, **params):
    response = await client.get("/usage", params=params)
    assert response.status_code == 200, response.text
    return response.json()["items"]


async def test_counts_add_up_by_day_tenant_and_adapter(house):
    for _ in range(3):
        house.usage.row("acme", "sql").add(Counts(1, 10, 4, 5, 5, 1500, stored_token_seconds=2400))
        await house.usage.flush()
    house.usage.row(None, None).add(Counts(requests=1))
    assert await rows(house.admin) == [
        {"day": TODAY, "tenant": None, "adapter": None, "requests": 1, "prompt_tokens": 0, "cached_tokens": 0,
         "cache_write_tokens": 0, "uncached_tokens": 0, "completion_tokens": 0, "device_ms": 0.0,
         "stored_token_hours": 0.0},
        {"day": TODAY, "tenant": "acme", "adapter": "sql", "requests": 3, "prompt_tokens": 30, "cached_tokens": 12,
         "cache_write_tokens": 15, "uncached_tokens": 3, "completion_tokens": 15, "device_ms": 4.5,
         "stored_token_hours": 2.0},
    ]  # fmt: skip


async def test_with_prices_a_row_is_told_in_money(house):
    house.usage._prices = Prices("EUR", device_second=2.0, cached_token=0.001, stored_token_hour=0.5)
    counts = Counts(2, 0, 400, 0, 0, device_us=3_000_000, saved_us=1_000_000, again_us=500_000)
    counts.stored_token_seconds = 7200
    for tenant, adapter in (("acme", "sql"), ("acme", None), ("globex", "sql")):
        house.usage.row(tenant, adapter).add(counts)
    money = {"currency": "EUR", "device": 6.0, "cached": 0.4, "saved": 1.6, "computed_again": 1.0, "stored": 1.0}
    assert [row["money"] for row in await rows(house.admin)] == [money] * 3
    acme, globex = await rows(house.admin, group_by="tenant")
    assert globex["money"] == money
    assert acme["money"] == {name: 2 * value if name != "currency" else value for name, value in money.items()}


async def test_filters_and_groups(house):
    for tenant, adapter in (("a", "x"), ("a", "y"), ("b", "x")):
        house.usage.row(tenant, adapter).add(Counts(requests=1, prompt_tokens=2))
    assert [row["adapter"] for row in await rows(house.admin, tenant="a")] == ["x", "y"]
    assert [row["tenant"] for row in await rows(house.admin, adapter="x")] == ["a", "b"]
    (total,) = await rows(house.admin, group_by="day")
    assert (total["requests"], total["day"], "tenant" in total) == (3, TODAY, False)
    by_tenant = await rows(house.admin, group_by="tenant")
    assert [(row["tenant"], row["requests"]) for row in by_tenant] == [("a", 2), ("b", 1)]
    assert await rows(house.admin, since="2999-01-01") == []
    assert await rows(house.admin, until="2020-01-01") == []
    assert len(await rows(house.admin, since=TODAY, until=TODAY)) == 3
    for params in ({"since": "yesterday"}, {"group_by": "version"}, {"limit": 0}, {"page_token": "x"}):
        assert (await house.admin.get("/usage", params=params)).status_code == 400


async def test_by_key(house):
    """Of keys by name, also of those that are revoked; of what came with none, or was not counted by key."""
    await house.tenant("a")
    made = (await house.admin.post("/keys", json={"name": "CI", "role": "tenant", "tenant": "a"})).json()
    person = "oidc:ann@example.com"
    for key, adapter, requests in ((made["id"], "x", 3), (made["id"], "y", 1), (person, "x", 5), ("", "x", 0)):
        for _ in range(2):
            house.usage.row("a", adapter, key).add(Counts(requests=requests, prompt_tokens=7))
            await house.usage.flush()
    house.usage.row(None, "x", "batches").add(Counts(requests=2))
    await house.admin.delete(f"/keys/{made['id']}")
    by_key = await rows(house.admin, group_by="key", tenant="a")
    told = {row["key"]: (row["key_name"], row["requests"], row["prompt_tokens"]) for row in by_key}
    assert told == {None: (None, 0, 14), made["id"]: ("CI", 8, 28), person: (None, 10, 14)}
    assert "tenant" not in by_key[0]
    assert [row["key"] for row in await rows(house.admin, group_by="key", tenant="")] == ["batches"]
    of_one = await rows(house.admin, key=made["id"])
    assert [(row["adapter"], row["requests"], "key" in row) for row in of_one] == [("x", 6, False), ("y", 2, False)]
    assert [row["requests"] for row in await rows(house.admin, group_by="tenant")] == [2, 18]
    pages, token = [], None
    while token is not None or not pages:
        params = {"group_by": ["adapter", "key"], "limit": 2} | ({"page_token": token} if token else {})
        page = (await house.admin.get("/usage", params=params)).json()
        pages += [(row["adapter"], row["key"]) for row in page["items"]]
        token = page["next_page_token"]
    assert len(pages) == len(set(pages)) == 5


async def test_a_tenant_sees_its_own_keys_only(house):
    acme = await house.tenant("acme")
    house.usage.row("acme", "x", "one").add(Counts(requests=1))
    house.usage.row("other", "x", "two").add(Counts(requests=1))
    assert [row["key"] for row in await rows(acme, group_by="key")] == ["one"]
    assert await rows(acme, group_by="key", key="two") == []


async def test_pages(house):
    for number in range(5):
        house.usage.row("t", f"a{number}").add(Counts(requests=1))
    seen, token = [], None
    while token is not None or not seen:
        params = {"limit": 2} | ({"page_token": token} if token else {})
        page = (await house.admin.get("/usage", params=params)).json()
        seen += [row["adapter"] for row in page["items"]]
        token = page["next_page_token"]
    assert seen == [f"a{number}" for number in range(5)]


async def test_requests_by_adapter_are_those_of_the_window_and_of_all_tenants(house):
    for tenant, adapter, requests in (("a", "x", 2), ("b", "x", 3), (None, None, 1), ("a", "only tokens", 0)):
        house.usage.row(tenant, adapter).add(Counts(requests=requests, prompt_tokens=9))
    await house.usage.flush()
    old = {("2020-01-01", "a", "x", ""): Counts(requests=50), ("2020-01-02", "a", "old", ""): Counts(requests=7)}
    house.usage._pending.update(old)
    house.usage.row("a", "x").add(Counts(requests=4))
    today = date.fromisoformat(TODAY)
    assert await house.usage.by_adapter(today) == {"x": ({TODAY: 9},), None: ({TODAY: 1},)}
    everything = {"x": ({TODAY: 9, "2020-01-01": 50},), None: ({TODAY: 1},), "old": ({"2020-01-02": 7},)}
    found = await house.usage.by_adapter(date(2020, 1, 1))
    assert found == everything
    assert (found["x"].requests, found["x"].last_day) == (59, TODAY)
    before = house.registry.database.commits
    await house.usage.by_adapter(today)
    assert house.registry.database.commits == before  # nothing is written to be read
    _, during = await asyncio.gather(house.usage.flush(), house.usage.by_adapter(date(2020, 1, 1)))
    assert during == await house.usage.by_adapter(date(2020, 1, 1)) == everything


async def test_a_tenant_sees_its_own_usage_only(house):
    acme = await house.tenant("acme")
    house.usage.row("acme", "x").add(Counts(requests=1))
    house.usage.row("other", "x").add(Counts(requests=1))
    assert [row["tenant"] for row in await rows(acme)] == ["acme"]
    assert (await acme.get("/usage", params={"tenant": "other"})).status_code == 403


async def test_it_is_written_by_itself_and_read_after_a_restart(open_house, monkeypatch):
    monkeypatch.setattr(usage, "FLUSH_SECONDS", 0.01)
    house = await open_house()
    house.usage.start()
    house.usage.row("acme", "x").add(Counts(requests=1))
    before = house.registry.database.commits
    while house.registry.database.commits == before:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    ledger = UsageLedger(house.registry.database)  # as another process would: nothing of the first one's memory
    house.usage.row("acme", "x").add(Counts(requests=1))
    await house.close()
    again = await open_house()
    assert (await rows(again.admin))[0]["requests"] == 2
    await ledger.close()


async def test_what_could_not_be_written_is_written_later(house, monkeypatch):
    async def refuse(actor, work):
        raise Unavailable("locked")

    house.usage.row("acme", "x").add(Counts(requests=1))
    with monkeypatch.context() as patch:
        patch.setattr(house.registry.database, "write", refuse)
        with pytest.raises(Unavailable):
            await house.usage.flush()
        house.usage.row("acme", "x").add(Counts(requests=1))
    assert (await rows(house.admin))[0]["requests"] == 2


async def test_a_day_ends_at_midnight_utc(house, monkeypatch):
    midnight = datetime(2031, 5, 2, tzinfo=UTC).timestamp()
    for now in (midnight - 1, midnight, midnight + 1):
        monkeypatch.setattr(usage.time, "time", lambda now=now: now)
        house.usage.row("acme", "x").add(Counts(requests=1))
    assert [(row["day"], row["requests"]) for row in await rows(house.admin)] == [("2031-05-01", 1), ("2031-05-02", 2)]
