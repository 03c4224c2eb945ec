"""The engine's handle: a pool of engines satisfies it as one process does, and a restarted process is found again."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from tests.platform.gateway.conftest import make_house, tokenizer
from tests.platform.gateway.house import READY, FakeClient, House

from multiflora_engine.process.cache_followers import CacheFollowers
from multiflora_engine.process.token_stream import TokenStream
from multiflora_engine.protocol.messages import AdapterResult, CacheReply, EngineStats, Ready, SlotEvent, Status
from multiflora_engine.protocol.requests import EngineFailure, GenerateRequest
from multiflora_platform.engine import EngineHandle
from multiflora_platform.registry.shadow_runs import Shadows
from multiflora_platform.server.app import create_app
from multiflora_platform.web.openai_errors import unavailable

__all__ = ["make_house", "tokenizer"]
CHAT = {"model": "sql", "messages": [{"role": "user", "content": "Hi"}]}


class Pool:
    """Several engines in turn, those that are ready; the least that a pool must do to be an EngineHandle."""

    restarts = 0
    pid = None

    def __init__(self, *engines: FakeClient) -> None:
        self._engines = engines
        self._turns = itertools.cycle(engines)

    @property
    def state(self) -> str:
        return "starting" if self.ready is None else "ready"

    @property
    def ready(self) -> Ready | None:
        return next((engine.ready for engine in self._engines if engine.ready is not None), None)

    @property
    def stats(self) -> EngineStats:
        return self._engines[0].stats

    @property
    def cache_followers(self) -> CacheFollowers:
        return self._engines[0].cache_followers

    def generate(self, request: GenerateRequest) -> TokenStream:
        return self._next().generate(request)

    async def adapter(self, action: str, digest: str) -> AdapterResult:
        return (await asyncio.gather(*(engine.adapter(action, digest) for engine in self._engines)))[0]

    async def status(self) -> Status:
        return await self._next().status()

    async def cache(self, action: str, hash: str = "", chain: bytes = b"", first: int = 0) -> CacheReply:
        return await self._next().cache(action, hash, chain, first)

    async def slot_history(self) -> list[SlotEvent]:
        histories = await asyncio.gather(*(engine.slot_history() for engine in self._engines))
        return [event for history in histories for event in history]

    def _next(self) -> FakeClient:
        for engine in itertools.islice(self._turns, len(self._engines)):
            if engine.ready is not None:
                return engine
        return self._engines[0]  # which says that it is not there


def behind(house: House, handle: EngineHandle) -> None:
    """Puts another handle in place of the house's."""
    house.services.engine = handle
    registry = house.services.registry
    house.services.shadows = Shadows(registry.rollouts, registry.lease, handle)
    house.app = create_app(house.services)


async def test_a_pool_answers_as_one_engine_does(make_house: Callable[..., House]) -> None:
    house = make_house()
    first, second = house.engine, FakeClient(house.engine.tokenizer, reply="Second.", ready=READY)
    behind(house, Pool(first, second))
    async with house.http:
        answers = [(await house.post("/v1/chat/completions", CHAT)).json() for _ in range(4)]
        texts = [answer["choices"][0]["message"]["content"] for answer in answers]
        assert texts == ["Hello, wörld!", "Second."] * 2
        first.ready = None
        events = await house.events("/v1/chat/completions", CHAT)
        assert "".join(event["choices"][0]["delta"].get("content") or "" for event in events[:-1]) == "Second."
        second.ready = None
        assert (await house.post("/v1/chat/completions", CHAT)).status_code == 503
    assert (len(first.requests), len(second.requests)) == (2, 3)


async def test_an_abort_reaches_the_engine_that_has_the_request(make_house: Callable[..., House]) -> None:
    house = make_house()
    first, second = house.engine, FakeClient(house.engine.tokenizer, ready=READY)
    first.hangs = second.hangs = True
    behind(house, Pool(first, second))
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
    old, new = house.engine, FakeClient(house.engine.tokenizer, reply="Back.", ready=READY)
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
