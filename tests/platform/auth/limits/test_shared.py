"""Limits that several servers count together on PostgreSQL: sums are exact, whoever asks, and whoever dies."""

from __future__ import annotations

import asyncio
import time

import psycopg
import pytest

from multiflora_platform.auth.limits.shared import SharedLimits
from multiflora_platform.auth.policies import Policy
from multiflora_platform.auth.principals import Principal
from multiflora_platform.storage.connections import open_engine
from multiflora_platform.storage.direct_connection import DirectConnection
from multiflora_platform.web.problems import Unavailable
from multiflora_platform.web.refusals import LimitReached


class Clock:
    """The servers' own; the database has another."""

    now = 1000.0

    def __call__(self):
        return self.now


class Servers:
    """Their limits on one database; `pass_by` moves all clocks."""

    def __init__(self, url):
        self.url = url
        self.clock = Clock()
        self.all = []

    def open(self, *, kept=True):
        """kept: with the background that gives back and renews."""
        connection = DirectConnection(open_engine(self.url))
        limits = SharedLimits(connection, self.clock)
        if kept:
            limits.start()
        self.all.append((limits, connection))
        return limits

    async def pass_by(self, seconds):
        moved = (
            "(SELECT jsonb_object_agg(key, jsonb_set(value, '{until}', to_jsonb((value->>'until')::float8 - %(s)s)))"
        )
        await self.sql(
            f"UPDATE tenant_leases SET at = at - %(s)s, held = coalesce({moved} FROM jsonb_each(held)), '{{}}')",
            s=seconds,
        )
        self.clock.now += seconds

    async def sql(self, statement, **values):
        async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as connection:
            cursor = await connection.execute(statement, values)
            return await cursor.fetchall() if cursor.description else None

    async def rows(self):
        return await self.sql("SELECT requests, tokens, held FROM tenant_leases")


@pytest.fixture
async def servers(postgres, postgres_schema):
    made = Servers(postgres.empty(postgres_schema))
    yield made
    for limits, connection in made.all:
        await limits.close()
        await connection.close()


@pytest.fixture
async def two(servers):
    return servers.open(), servers.open()


def principal(tenant_id=1, **policy):
    return Principal("tenant", f"t{tenant_id}", "k", tenant_id, policy=Policy(**policy))


async def admitted(limits, who):
    """The claim; None: refused."""
    try:
        return await limits.admit(who)
    except LimitReached:
        return None


async def burst(servers, who, count):
    """Asked of all servers in turn, all at the same time; the claims of those that were admitted."""
    found = await asyncio.gather(*(admitted(servers[number % len(servers)], who) for number in range(count)))
    return [claim for claim in found if claim is not None]


class Count:
    """What may be admitted in all: the full bucket and what has refilled, however long the machine takes."""

    def __init__(self, per_minute):
        self.per_minute, self.began, self.passed, self.admitted = per_minute, time.monotonic(), 0, 0

    def check(self):
        """Everything that there was has been admitted, and no more."""
        whole = self.per_minute + self.passed * self.per_minute // 60
        assert whole <= self.admitted <= whole + (time.monotonic() - self.began) * self.per_minute / 60


@pytest.mark.parametrize("per_minute", [60, 900])
async def test_requests_per_minute_are_one_sum(servers, two, per_minute):
    who, count = principal(requests_per_minute=per_minute), Count(per_minute)
    for pause in (0, 20, 3):
        await servers.pass_by(pause)
        count.passed += pause
        while claims := await burst(two, who, 100):
            count.admitted += len(claims)
            for claim in claims:
                claim.close()
        count.check()


async def test_a_refusal_tells_when_there_is_one_again(servers, two):
    who = principal(requests_per_minute=1)
    await two[0].admit(who)
    with pytest.raises(LimitReached, match="1 requests per minute") as caught:
        await two[1].admit(who)
    assert 50 < caught.value.retry_after <= 60
    assert two[1].headers(who)["x-ratelimit-remaining-requests"] == "0"
    await servers.pass_by(60)
    await two[1].admit(who)


async def test_what_a_server_holds_counts_towards_the_minutes_allowance(servers, two):
    """It takes a second's worth at once; the bucket does not fill up over that."""
    one, other = two
    who = principal(requests_per_minute=600)
    await one.admit(who)
    await servers.pass_by(0.9)
    began = time.monotonic()
    found = len(await burst([other], who, 700)) + len(await burst([one], who, 20))
    assert 599 <= found <= 600 + (time.monotonic() - began) * 10


async def test_what_was_used_keeps_no_bucket_from_refilling(servers, two):
    one, other = two
    requests, tokens = principal(requests_per_minute=60), principal(2, tokens_per_minute=600)
    assert len(await burst([one], requests, 70)) >= 60
    await (await one.admit(tokens)).prompt(600)
    await servers.pass_by(5)
    assert len(await burst([other], requests, 10)) >= 5
    await (await other.admit(tokens)).prompt(50)


async def test_what_was_used_is_told_when_no_more_requests_come(servers, two):
    who = principal(requests_per_minute=600)
    assert len(await burst([two[0]], who, 10)) == 10
    servers.clock.now += 1
    await eventually(lambda: is_nothing_held(servers))


async def test_concurrent_requests_are_one_sum(two):
    who = principal(max_concurrent_requests=3)
    claims = await burst(two, who, 8)
    assert len(claims) == 3
    with pytest.raises(LimitReached, match="runs 3 requests"):
        await two[1].admit(who)
    for claim in claims:
        claim.close()
        claim.close()
    again = await eventually(lambda: burst(two, who, 8))
    assert len(again) == 3


async def eventually(ask):
    """Until it is something."""
    async with asyncio.timeout(30):
        while not (found := await ask()):  # noqa: ASYNC110 - another server sends no signal
            await asyncio.sleep(0.005)
    return found


async def test_the_seats_of_a_server_that_dies_lapse(servers):
    dead, alive = servers.open(kept=False), servers.open()
    who = principal(max_concurrent_requests=3)
    assert len(await burst([dead, dead], who, 2)) == 2
    (own,) = await burst([alive], who, 3)
    await servers.pass_by(9)
    await eventually(lambda: renewed(servers))
    assert await admitted(alive, who) is None
    await servers.pass_by(2)
    found = await burst([alive], who, 3)
    assert len(found) == 2
    for claim in (own, *found):
        claim.close()


async def renewed(servers):
    """Seats are held for a whole lease again."""
    lasting = "(value->>'seats')::int > 0 AND (value->>'until')::float8 > extract(epoch FROM now()) + 8"
    return await servers.sql(f"SELECT 1 FROM tenant_leases, jsonb_each(held) WHERE {lasting}")


async def test_a_long_request_keeps_its_seat(servers, two):
    who = principal(max_concurrent_requests=1)
    claim = await two[0].admit(who)
    for _ in range(4):
        await servers.pass_by(4)
        await eventually(lambda: renewed(servers))
        assert await admitted(two[1], who) is None
    claim.close()
    await eventually(lambda: admitted(two[1], who))


async def test_tokens_are_one_sum_and_what_is_owed_is_owed_everywhere(servers, two):
    one, other = two
    who = principal(tokens_per_minute=600)
    claim = await one.admit(who)
    await claim.prompt(300)
    beside = await other.admit(who)
    with pytest.raises(LimitReached, match="600 tokens per minute"):
        await beside.prompt(400)
    await beside.prompt(250)
    claim.generated(150)
    await eventually(lambda: servers.sql("SELECT 1 FROM tenant_leases WHERE tokens < -50"))
    with pytest.raises(LimitReached) as caught:
        await beside.prompt(50)
    assert 5 < caught.value.retry_after <= 16
    await servers.pass_by(16)
    await beside.prompt(50)
    with pytest.raises(LimitReached, match="Send a shorter one"):
        await beside.prompt(601)


async def test_what_was_not_used_goes_back(servers, two):
    """What a refused request had taken, and a second's worth that no request came for."""
    who = principal(requests_per_minute=6000, tokens_per_minute=6000)
    claim = await two[0].admit(who)
    await claim.prompt(5000)
    claim.give_back()
    claim.close()
    await eventually(lambda: prompted(two[1], who, 5000))
    servers.clock.now += 1.0
    await eventually(lambda: is_nothing_held(servers))


async def is_nothing_held(servers):
    holds = "(value->>'requests')::float8 > 0 OR (value->>'tokens')::float8 > 0"
    return not await servers.sql(f"SELECT 1 FROM tenant_leases, jsonb_each(held) WHERE {holds}")


async def prompted(limits, who, count):
    try:
        await (await limits.admit(who)).prompt(count)
    except LimitReached:
        return False
    return True


async def test_a_request_that_leaves_while_it_waits_takes_nothing(servers, two):
    who = principal(max_concurrent_requests=1, requests_per_minute=60)
    await (await two[0].admit(principal(2, requests_per_minute=60))).prompt(1)  # the connection is there
    waiting = asyncio.create_task(two[0].admit(who))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert waiting.cancelled()
    claim = await eventually(lambda: admitted(two[1], who))
    assert two[1].headers(who)["x-ratelimit-remaining-requests"] == "59"
    claim.close()


async def test_changed_limits_count_at_once(two):
    await two[0].admit(principal(requests_per_minute=6000))
    for limits in two:
        await limits.admit(principal(requests_per_minute=2))
    for limits in two:
        assert await admitted(limits, principal(requests_per_minute=2)) is None
    await two[0].admit(principal())
    assert await admitted(two[1], principal(max_concurrent_requests=3))


async def test_headers_tell_the_sum(two):
    who = principal(requests_per_minute=60, tokens_per_minute=600)
    for limits in two:
        await (await limits.admit(who)).prompt(100)
    found = two[1].headers(who)
    assert found["x-ratelimit-remaining-requests"] == "58"
    assert 400 <= int(found["x-ratelimit-remaining-tokens"]) <= 410
    assert two[1].headers(principal(3)) == {}


async def test_the_standing_is_that_of_all(servers, two):
    who = principal(requests_per_minute=600, tokens_per_minute=600, max_concurrent_requests=3)
    began = await two[0].standing(who)
    assert (began.requests_left, began.tokens_left, began.running, began.is_shared) == (600, 600, 0, True)
    for limits in two:
        await (await limits.admit(who)).prompt(100)
    now = await two[0].standing(who)
    assert (now.running, now.is_shared) == (2, True)
    assert 590 <= now.requests_left <= 600
    assert 400 <= now.tokens_left <= 500
    none = await two[1].standing(principal(1, requests_per_minute=60))
    assert (none.requests_left, none.tokens_left, none.running) == (60, None, None)


async def test_without_limits_the_database_is_not_asked(servers, two):
    claim = await two[0].admit(principal())
    await claim.prompt(10)
    claim.generated(5)
    claim.close()
    await (await two[0].admit(Principal("admin", None, "k"))).prompt(10)
    assert await servers.rows() == []


async def test_while_the_database_is_away_limits_are_not_lifted(servers, two, monkeypatch):
    who, began = principal(requests_per_minute=600), time.monotonic()
    await two[0].admit(who)
    connection = servers.all[0][1]
    away = {**connection._arguments, "port": 1}
    monkeypatch.setattr(connection, "_arguments", away)
    await connection.close()
    for _ in range(9):
        await two[0].admit(who)  # taken before
    for _ in range(3):
        with pytest.raises(Unavailable, match="database does not answer"):
            await two[0].admit(who)
    with pytest.raises(Unavailable):
        await two[0].admit(principal(2, max_concurrent_requests=5))
    await (await two[0].admit(principal(4))).prompt(5)
    monkeypatch.undo()
    await eventually(lambda: available(two[0], who))
    assert int(two[0].headers(who)["x-ratelimit-remaining-requests"]) <= 589 + (time.monotonic() - began) * 10


async def available(limits, who):
    try:
        return await limits.admit(who)
    except Unavailable:
        return None


async def test_a_table_that_a_crash_has_emptied_is_begun_anew(servers, two):
    who = principal(max_concurrent_requests=2, requests_per_minute=60)
    claims = await burst(two, who, 1)
    await servers.sql("TRUNCATE tenant_leases")
    servers.clock.now += 3
    await eventually(servers.rows)  # the server that holds a seat says so
    assert len(await burst([two[1]], who, 3)) == 1
    claims[0].close()
