"""Several engines as one: requests go to those that serve, administration to all, reports come from all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from tests.platform.fleet.lines import READY, Line, a_request, fleet_of
from tests.platform.gateway.conftest import make_house, tokenizer
from tests.platform.gateway.house import READY as HOUSE_READY
from tests.platform.gateway.house import FakeClient, House

from multiflora_engine.process.client import EngineUnavailable
from multiflora_engine.protocol.messages import AdapterResult, CacheReply, EngineStats
from multiflora_engine.protocol.requests import EngineFailure
from multiflora_platform.engine import EngineHandle, UnknownReplica
from multiflora_platform.registry.shadow_runs import Shadows
from multiflora_platform.server.app import create_app
from multiflora_platform.web.openai_errors import unavailable

__all__ = ["make_house", "tokenizer"]
CHAT = {"model": "sql", "messages": [{"role": "user", "content": "Hi"}]}


def behind(house: House, handle: EngineHandle) -> None:
    """Puts another handle in place of the house's."""
    house.services.groups.default.engine = handle
    registry = house.services.registry
    house.services.shadows = Shadows(registry.rollouts, registry.lease)
    house.app = create_app(house.services)


def fakes(house: House, **options: Any) -> tuple[FakeClient, FakeClient]:
    return house.engine, FakeClient(house.engine.tokenizer, ready=HOUSE_READY, **options)


async def test_a_fleet_answers_as_one_engine_does_and_tells_admins_which_did(make_house: Callable[..., House]) -> None:
    house = make_house()
    first, second = fakes(house, reply="Second.")
    behind(house, fleet_of(first, second))
    async with house.http:
        sent = [await house.post("/v1/chat/completions", CHAT) for _ in range(4)]
        texts = [answer.json()["choices"][0]["message"]["content"] for answer in sent]
        assert texts == ["Second.", "Hello, wörld!"] * 2
        assert [answer.headers["x-multiflora-replica"] for answer in sent] == ["1", "0", "1", "0"]
        first.ready = None
        events = await house.events("/v1/chat/completions", CHAT)
        assert "".join(event["choices"][0]["delta"].get("content") or "" for event in events[:-1]) == "Second."
        second.ready = None
        assert (await house.post("/v1/chat/completions", CHAT)).status_code == 503
    assert (len(first.requests), len(second.requests)) == (2, 3)


async def test_an_abort_reaches_the_engine_that_has_the_request(make_house: Callable[..., House]) -> None:
    house = make_house()
    first, second = fakes(house)
    first.hangs = second.hangs = True
    behind(house, fleet_of(first, second))
    async with house.http:
        asking = [asyncio.ensure_future(house.post("/v1/chat/completions", CHAT)) for _ in range(2)]
        await house.until(lambda: first.requests and second.requests)
        for prompt in list(house.services.active):
            prompt.fail(unavailable("The server shuts down."))
        assert [(await one).status_code for one in asking] == [503, 503]
    assert [engine.aborted for engine in (first, second)] == [[e.requests[0].id] for e in (first, second)]


async def test_a_restart_gives_another_client(make_house: Callable[..., House]) -> None:
    """The answer that the old process owed fails, by its own stream; what comes later goes to the new one."""
    house = make_house()
    old, new = fakes(house, reply="Back.")
    old.pace = 0.1
    async with house.http:
        owed = asyncio.ensure_future(house.post("/v1/chat/completions", CHAT))
        await house.until(lambda: old.requests)
        old.ready, house.supervisor.state = None, "restarting"
        assert (await house.post("/v1/chat/completions", CHAT)).status_code == 503
        assert (house.services.state, house.services.is_ready) == ("restarting", False)
        house.supervisor.client, house.supervisor.state, house.supervisor.restarts = new, "ready", 3
        again = (await house.post("/v1/chat/completions", CHAT)).json()
        assert again["choices"][0]["message"]["content"] == "Back."
        old.failure = EngineFailure("engine_dead", "The engine died.")
        assert (await owed).json()["error"]["code"] == "engine_dead"
    assert (len(old.requests), len(new.requests), house.services.engine.restarts) == (1, 1, 3)
    assert house.services.is_ready


def test_the_fleet_is_ready_while_one_engine_is_and_promises_what_holds_for_each() -> None:
    one, other = Line(), Line(replace(READY, num_blocks=60, max_model_len=500))
    fleet = fleet_of(one, other)
    assert (fleet.state, fleet.ready) == ("ready", replace(READY, num_blocks=60, max_model_len=500))
    fleet.replicas[1].supervisor.state, other.ready = "restarting", None
    assert (fleet.state, fleet.ready, fleet.failure) == ("ready", READY, None)
    fleet.replicas[0].supervisor.state, one.ready = "failed", None
    assert (fleet.state, fleet.ready, fleet.failure) == ("restarting", None, None)
    with pytest.raises(EngineUnavailable):
        fleet.generate(a_request("r"))


def test_what_an_engine_counted_stays_in_the_sums_when_it_dies() -> None:
    one, other = Line(), Line()
    fleet = fleet_of(one, other)
    one.stats, other.stats = EngineStats(running=2, prompt_tokens=100), EngineStats(running=1, prompt_tokens=7)
    assert (fleet.stats.running, fleet.stats.prompt_tokens) == (3, 107)
    one.dies()
    assert (fleet.stats.running, fleet.stats.prompt_tokens) == (1, 107)
    one.stats = EngineStats(prompt_tokens=5)
    assert fleet.stats.prompt_tokens == 112


async def test_administration_reaches_every_engine_or_the_one_that_is_named(make_house: Callable[..., House]) -> None:
    house = make_house()
    first, second = fakes(house)
    fleet = fleet_of(first, second)
    behind(house, fleet)
    first.cache_reply, second.cache_reply = CacheReply(0, error="It is not cached."), CacheReply(0, found=3)
    assert (await fleet.cache("pin", "ab" * 32)).error is None
    assert (await fleet.adapter("load", "d")).error is None
    assert (await fleet.addressed("1").adapter("unload", "d")).error is None
    assert (first.commands, second.commands) == ([("load", "d")], [("load", "d"), ("unload", "d")])
    assert first.cache_calls == second.cache_calls == [("pin", "ab" * 32)]
    with pytest.raises(UnknownReplica, match="'7'; there is 0, 1"):
        fleet.addressed("7")
    async with house.http:
        listed = (await house.http.get("/api/v1/slots")).json()["replicas"]
        assert [one["replica"] for one in listed] == ["0", "1"]
        assert [o["replica"] for o in (await house.http.get("/api/v1/slots?replica=1")).json()["replicas"]] == ["1"]
        assert (await house.http.get("/api/v1/slots?replica=7")).status_code == 404
        assert (await house.http.post(f"/api/v1/cache/{'ab' * 32}:pin?replica=0")).status_code == 404
        assert (await house.http.post(f"/api/v1/cache/{'ab' * 32}:pin?replica=1")).status_code == 204


async def test_all_engines_pin_or_none_does(make_house: Callable[..., House]) -> None:
    house = make_house()
    first, second = fakes(house)
    fleet = fleet_of(first, second)
    second.adapter_result = AdapterResult(0, "every slot is pinned", is_full=True)
    refused = await fleet.adapter("pin", "d")
    assert (refused.error, refused.is_full) == ("replica 1: every slot is pinned", True)
    assert first.commands[-1] == ("unpin", "d")
    assert first.pinned == second.pinned == set()


async def test_an_engine_that_is_away_pins_when_it_is_back(make_house: Callable[..., House]) -> None:
    house = make_house()
    first, second = fakes(house)
    fleet = fleet_of(first, second)
    second.ready = None
    assert (await fleet.adapter("pin", "d")).error is None
    assert (first.commands, second.commands, second.pinned) == ([("pin", "d")], [], {"d"})
    second.adapter_result = AdapterResult(0, "full")
    assert (await fleet.adapter("unpin", "d")).error is None
    assert second.pinned == set()
    first.ready = None
    with pytest.raises(EngineUnavailable):
        await fleet.adapter("pin", "d")
    assert first.pinned == second.pinned == set(), "what was refused does not come true later"


async def test_the_caches_sums_keep_what_an_engine_counted_that_is_gone(make_house: Callable[..., House]) -> None:
    house = make_house()
    first, second = fakes(house)
    fleet = fleet_of(first, second)
    behind(house, fleet)
    fleet._note_end(EngineStats(cache_hits=40, cache_queries=100, evictions=3, running=7))
    first.stats, second.stats = EngineStats(cache_hits=1, cache_queries=2), EngineStats(cache_hits=5, cache_queries=5)
    async with house.http:
        shown = (await house.http.get("/api/v1/cache")).json()
        assert (shown["hits_tokens"], shown["queries_tokens"], shown["evictions"]) == (46, 107, 3)
        of_one = (await house.http.get("/api/v1/cache?replica=1")).json()
        assert (of_one["hits_tokens"], of_one["queries_tokens"], of_one["evictions"]) == (5, 5, 0)


def test_round_robin_takes_turns_and_least_loaded_the_one_with_fewest() -> None:
    lines = [Line(), Line(), Line()]
    fleet = fleet_of(*lines)
    kept = [fleet.generate(a_request(f"r{number}")) for number in range(6)]
    assert [len(line.requests) for line in lines] == [2, 2, 2]
    lines = [Line(), Line()]
    fleet = fleet_of(*lines, policy="least-loaded")
    kept += [fleet.generate(a_request(f"l{number}")) for number in range(4)]
    assert [line.in_flight for line in lines] == [2, 2]
    for request in lines[0].requests:
        lines[0].abort(request.id)
    kept += [fleet.generate(a_request(f"m{number}")) for number in range(2)]
    assert [line.in_flight for line in lines] == [2, 2]
