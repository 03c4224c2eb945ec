"""Peaks: the largest minute of a day, over all servers; what was admitted, whoever asked."""

from __future__ import annotations

from datetime import datetime

import pytest
from sqlalchemy import func, select
from tests.platform.registry.house import opening

from multiflora_platform.auth.limits.memory import MemoryLimits
from multiflora_platform.auth.policies import Policy
from multiflora_platform.auth.principals import Principal
from multiflora_platform.auth.tallies import peaks
from multiflora_platform.auth.tallies.peaks import WatchedLimits
from multiflora_platform.storage.tables import MinuteUseRow
from multiflora_platform.web.problems import Unavailable
from multiflora_platform.web.refusals import LimitReached

NOON = datetime.fromisoformat("2026-03-05T12:00:00+00:00").timestamp()
HOUR = 3600


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """`clock.now` is the time."""

    class Clock:
        now = NOON

    monkeypatch.setattr(peaks.time, "time", lambda: Clock.now)
    return Clock


@pytest.fixture(params=["sqlite", "postgresql"])
async def servers(request, tmp_path):
    """Two on one database."""
    url = None
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").empty(request.getfixturevalue("postgres_schema"))
    async with opening(tmp_path / "data", url) as make:
        yield [await make(), await make()]


def acme(**limits):
    return Principal("tenant", "acme", "k", 1, policy=Policy(**limits))


async def peak(house, window="day"):
    found = await house.usage.peaks.of(window, "acme")
    return found.requests_per_minute, found.tokens_per_minute, found.concurrent


async def test_what_is_admitted_makes_the_peak(house, clock):
    limits = WatchedLimits(house.usage.peaks, MemoryLimits())
    who = acme(max_concurrent_requests=2)
    one, two = await limits.admit(who), await limits.admit(who)
    with pytest.raises(LimitReached):
        await limits.admit(who)
    await one.prompt(10)
    one.generated(5)
    await two.prompt(100)
    two.give_back()
    two.close()
    two.close()
    await limits.admit(Principal("admin", None, "k"))
    assert await peak(house) == (2, 15, 2)
    clock.now += 60
    one.generated(20)  # runs on, in a minute of its own
    assert await peak(house) == (2, 20, 2)
    clock.now += 60
    await house.usage.flush()
    assert await peak(house) == (2, 20, 2)
    one.close()
    assert house.usage.peaks._running == {}


async def test_servers_are_added_up_minute_by_minute_and_days_keep_the_largest(servers, clock):
    one, two = (server.usage.peaks for server in servers)
    for requests, server in ((3, one), (4, two)):
        for _ in range(requests):
            server.began("acme")
            server.used("acme", 10)
        server.began("other")
    for _ in range(2):  # written again and again, counted once
        for server in servers:
            await server.usage.flush()
    assert await peak(servers[0]) == await peak(servers[1]) == (7, 70, 7)
    for server, requests in ((one, 3), (two, 4)):
        for _ in range(requests):
            server.ended("acme")
        server.ended("other")
    clock.now += 60
    one.used("acme", 69)
    assert await peak(servers[0]) == (7, 70, 7)
    clock.now += 2 * HOUR
    one.used("acme", 1)
    for server in servers:
        await server.usage.flush()
    async with servers[0].database.read() as session:
        kept = await session.scalar(select(func.count()).select_from(MinuteUseRow))
    assert kept == 1  # the hours before are folded
    assert await peak(servers[1]) == (7, 70, 7)
    clock.now += 24 * HOUR
    assert (await peak(servers[1]), await peak(servers[1], "week")) == ((0, 0, 0), (7, 70, 7))


async def test_what_could_not_be_written_is_written_later(house, monkeypatch, clock):
    async def refuse(actor, work):
        raise Unavailable("locked")

    house.usage.peaks.began("acme")
    house.usage.peaks.ended("acme")
    with monkeypatch.context() as patch:
        patch.setattr(house.database, "write", refuse)
        with pytest.raises(Unavailable):
            await house.usage.flush()
        clock.now += 60
    await house.usage.flush()
    assert house.usage.peaks._uses == {}
    assert await peak(house) == (1, 0, 1)
