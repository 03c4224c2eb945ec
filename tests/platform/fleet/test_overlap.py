"""Real engines behind their real step loops, in this process: what the router predicts is what they then have."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from tests.engine.conftest import (
    VOCAB,
    SaveModel,
    StartEngine,
    _own_digest_cache,
    make_adapters,
    save_model,
    start_engine,
    store,
    tiny,
)
from tests.platform.fleet.lines import Line, fleet_of
from transformers import LlamaConfig

from multiflora_adapters.facts import read_facts
from multiflora_adapters.kv_reach import BASE_KV, KvReach
from multiflora_adapters.store import ArtifactStore
from multiflora_engine.build import BuiltEngine
from multiflora_engine.process.lifetime import ProcessLifetime
from multiflora_engine.process.socket import EngineSocket, Peer
from multiflora_engine.process.step_loop import StepLoop
from multiflora_engine.protocol.messages import EngineStats, FromEngine, ToEngine
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_platform.fleet.block_index import KEY_BYTES
from multiflora_platform.fleet.fleet import Fleet
from multiflora_platform.fleet.routing import prompt_hashes_by

__all__ = ["_own_digest_cache", "make_adapters", "save_model", "start_engine", "store"]


class Idle(Exception):
    """The loop rests: it has done all it was asked to."""


class EngineLine(Line):
    """The client of an engine in this process, and the socket of the engine's loop."""

    def __init__(self, built: BuiltEngine) -> None:
        super().__init__(built.ready)
        self.asked: deque[ToEngine] = deque()
        self._built = built
        self._peer = Peer(cast(Any, None), b"", is_starter=True)
        socket = SimpleNamespace(
            peers=[self._peer],
            receive=self._next,
            send=lambda peer, message: self._hears(message),
            send_all=self._hears,
            take_gone=list,
            wait=self._rests,
        )
        lifetime = SimpleNamespace(stop_requested=False, orphaned=False)
        self._steps = StepLoop(built, cast(EngineSocket, socket), cast(ProcessLifetime, lifetime))

    def send(self, message: ToEngine) -> None:
        self.asked.append(message)

    def stats_now(self) -> EngineStats:
        return self._built.engine.stats()

    def adapters_now(self) -> dict[str, str]:
        """In memory, by the engine's own report."""
        return {one.digest: one.residency for one in self._built.residency.snapshot() if one.residency != "disk"}

    def blocks_now(self) -> set[bytes]:
        """Those that prompts may find, by the beginnings of their hashes."""
        pool = self._built.engine._scheduler.pool
        held = (pool.hash_of(block_id) for block_id in range(self._built.ready.num_blocks))
        return {hash[:KEY_BYTES] for hash in held if hash is not None}

    def answer(self) -> None:
        """Until the engine has nothing to do."""
        try:
            self._steps.run()
        except Idle:
            return

    def _next(self) -> tuple[Peer, ToEngine] | None:
        return (self._peer, self.asked.popleft()) if self.asked else None

    def _hears(self, message: FromEngine) -> None:
        self._dispatch(self._decode(self._encode(message)))

    def _rests(self, milliseconds: int) -> None:
        if milliseconds > 10:
            raise Idle
        self._built.residency.wait(1.0)  # for an adapter that is being read


def routed(
    first: BuiltEngine, second: BuiltEngine, store: ArtifactStore, adapters: list[str]
) -> tuple[Fleet, list[EngineLine]]:
    lines = [EngineLine(first), EngineLine(second)]
    fleet = fleet_of(*lines, policy="score")
    reaches: dict[str | None, KvReach] = {None: BASE_KV}
    for digest in adapters:
        facts = read_facts(store.path(digest), first.base)
        reaches[digest] = KvReach(facts.kv_digest, facts.invocation_tokens)
    fleet.look_up_by(prompt_hashes_by(first.base.digest, reaches.__getitem__))
    for line in lines:
        line.cache_followers.begin()
        line.answer()
    return fleet, lines


def indexed(fleet: Fleet) -> list[set[bytes]]:
    """Of each engine, the blocks that the router takes it to have."""
    holders = fleet._router._index._holders
    return [{key for key, bits in holders.items() if bits & load.bit} for load in fleet._router._loads.values()]


async def asked(fleet: Fleet, lines: list[EngineLine], request: GenerateRequest) -> int:
    """Its cached tokens, with no other request beside it."""
    stream = fleet.generate(request)
    for line in lines:
        line.answer()
    deltas = [delta async for delta in stream]
    assert not any(delta.failure for delta in deltas)
    return deltas[0].cached_tokens


async def test_the_predicted_overlap_is_what_is_cached(
    save_model: SaveModel,
    start_engine: StartEngine,
    store: ArtifactStore,
    make_adapters: Callable[[list[int]], list[str]],
) -> None:
    """One request at a time. The caches are small, so that blocks are evicted all the time; slots are fewer than
    adapters."""
    _, folder = save_model(tiny(LlamaConfig))
    adapters = make_adapters([16, 16, 16])
    sizes = {"kv_cache_memory": 28 * 8192, "max_loras": 1, "max_num_batched_tokens": 256}
    fleet, lines = routed(start_engine(folder, **sizes), start_engine(folder, **sizes), store, adapters)
    random_of = random.Random(5)
    contexts = [[random_of.randrange(VOCAB) for _ in range(random_of.randrange(16, 160))] for _ in range(7)]
    equal = found = 0
    for number in range(100):
        own = [random_of.randrange(VOCAB) for _ in range(random_of.randrange(24))]
        context = contexts[min(random_of.randrange(7), random_of.randrange(7))]
        params = SamplingParams(max_tokens=3, temperature=0.0, prompt_logprobs=1 if number % 20 == 7 else None)
        request = GenerateRequest(
            id=f"r{number}",
            prompt_token_ids=context[: random_of.choice([16, 32, 33, 160])] + own,
            params=params,
            adapter_digest=random_of.choice([None, *adapters]),
            cache_salt=random_of.choice(["", "", "tenant"]),
        )
        cached = await asked(fleet, lines, request)
        place = fleet.placement_of(request.id)
        assert place is not None
        equal += place.cached_tokens == cached
        found += cached
        for line in lines:
            assert line.adapter_places == line.adapters_now()
        assert indexed(fleet) == [line.blocks_now() for line in lines]
    of_engines = [line.stats_now() for line in lines]
    # Which of them evicts more depends on their pace.
    assert sum(stats.evictions for stats in of_engines) > 100
    assert sum(stats.adapter_evictions for stats in of_engines) > 2
    assert found > 1000
    assert equal >= 99
