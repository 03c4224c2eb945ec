"""Refused requests: counted by tenant, day and cause, over all servers; a tenant sees its own."""

from __future__ import annotations

from datetime import datetime

import pytest
from tests.platform.registry.house import opening

from multiflora_platform.auth.tallies import refused_requests
from multiflora_platform.web.problems import Unavailable

NONE = {"requests": 0, "tokens": 0, "concurrent": 0, "budget": 0, "not_allowed": 0, "overloaded": 0}
DAY = 86_400


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """`clock.now` is the time."""

    class Clock:
        now = datetime.fromisoformat("2026-03-05T12:00:00+00:00").timestamp()

    monkeypatch.setattr(refused_requests.time, "time", lambda: Clock.now)
    return Clock


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
async def test_causes_of_all_servers_add_up_by_day(request, tmp_path, clock, backend):
    url = None
    if backend == "postgresql":
        url = request.getfixturevalue("postgres").empty(request.getfixturevalue("postgres_schema"))
    async with opening(tmp_path / "data", url) as make:
        one, two = await make(), await make()
        for server in (one, two, one):
            server.usage.refusals.count("acme", "tokens")
            await server.usage.flush()
        clock.now += DAY
        one.usage.refusals.count("acme", "budget")
        assert await refused(one.admin, "day") == {"acme": NONE | {"budget": 1}}  # not written yet
        await one.usage.flush()
        assert await refused(two.admin, "day") == {"acme": NONE | {"budget": 1}}
        assert await refused(two.admin, "week") == {"acme": NONE | {"budget": 1, "tokens": 3}}


async def refused(client, window):
    answer = await client.get("/refusals", params={"window": window})
    return {one["tenant"]: one["refused"] for one in answer.json()["items"]}


async def test_what_could_not_be_written_is_written_later(house, monkeypatch):
    async def refuse(actor, work):
        raise Unavailable("locked")

    house.usage.refusals.count("acme", "requests")
    with monkeypatch.context() as patch:
        patch.setattr(house.database, "write", refuse)
        with pytest.raises(Unavailable):
            await house.usage.flush()
        house.usage.refusals.count("acme", "requests")
    await house.usage.flush()
    assert await refused(house.admin, "day") == {"acme": NONE | {"requests": 2}}


async def test_a_tenant_sees_its_own(house):
    acme = await house.tenant("acme")
    for tenant in ("acme", "other"):
        house.usage.refusals.count(tenant, "overloaded")
    own = NONE | {"overloaded": 1}
    assert await refused(acme, "month") == {"acme": own}
    assert (await acme.get("/refusals?tenant=other")).status_code == 403
    assert (await acme.get("/tenants/acme/limits")).json()["refused"] == own
    assert (await house.admin.get("/tenants/acme/limits?window=week")).json()["refused"] == own
    assert (await house.admin.get("/tenants/acme/limits?window=year")).status_code == 400
