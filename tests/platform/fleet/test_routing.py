"""Which replica gets a request: the one that will have its first token soonest, by what it has and has to do."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.platform.fleet.lines import READY, Line, a_request, fleet_of

from multiflora_adapters.kv_reach import BASE_KV, KvReach
from multiflora_engine.cache import block_hashes
from multiflora_engine.cache.block_hashes import block_hash, prompt_hashes
from multiflora_engine.protocol.cache_change import CacheChange
from multiflora_engine.protocol.messages import AdapterMoves, CacheChanges, EngineLoad, EngineStats
from multiflora_engine.protocol.requests import GenerateRequest, TokenDelta
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_platform.engine import Placement
from multiflora_platform.fleet.block_index import KEY_BYTES, BlockIndex
from multiflora_platform.fleet.fleet import Fleet
from multiflora_platform.fleet.routing import prompt_hashes_by

SIZE = READY.block_size
CONTEXT = [*range(100, 100 + 4 * SIZE)]
OTHER = [*range(500, 500 + 4 * SIZE)]


def ask(id: str, prompt: list[int], adapter: str | None = None, salt: str = "") -> GenerateRequest:
    return GenerateRequest(
        id=id, prompt_token_ids=prompt, params=SamplingParams(max_tokens=8), adapter_digest=adapter, cache_salt=salt
    )


def scored(*lines: Line) -> Fleet:
    fleet = fleet_of(*lines, policy="score")
    fleet.look_up_by(prompt_hashes_by("base", lambda digest: BASE_KV if digest is None else KvReach(digest)))
    for line in lines:
        line.cache_followers.begin()
    return fleet


def publish(line: Line, prompt: list[int], adapter: str | None = None, salt: str = "", removed: bool = False) -> None:
    hashes = prompt_hashes("base", KvReach(adapter), salt, prompt, SIZE)
    line.cache_followers.take(CacheChanges(1, [CacheChange(b"".join(hashes), is_removal=removed)]))


def place(fleet: Fleet, request: GenerateRequest) -> str | None:
    stream = fleet.generate(request)
    line = fleet.replicas[int(fleet.replica_of(request.id) or 0)].client
    assert isinstance(line, Line)
    line.says(TokenDelta(request_id=request.id, finish_reason="stop", token_ids=[1]))
    del stream
    return fleet.replica_of(request.id)


def test_a_request_goes_where_its_beginning_is_cached() -> None:
    lines = Line(), Line()
    fleet = scored(*lines)
    publish(lines[0], CONTEXT)
    publish(lines[1], OTHER)
    for number in range(4):
        assert place(fleet, ask(f"a{number}", [*CONTEXT, number])) == "0"
        assert place(fleet, ask(f"b{number}", [*OTHER, number])) == "1"
    publish(lines[1], CONTEXT, salt="tenant")
    assert place(fleet, ask("c", [*CONTEXT, 1], salt="tenant")) == "1"
    publish(lines[1], CONTEXT, adapter="d")
    assert place(fleet, ask("d", [*CONTEXT, 1], adapter="d")) == "1"


def test_a_long_prompt_is_looked_up_as_far_as_it_is_cached() -> None:
    lines = Line(), Line()
    fleet = scored(*lines)
    long = [number % 251 for number in range(9000)]
    publish(lines[0], long[:8500])
    publish(lines[1], long[:8800])
    stream = fleet.generate(ask("a", long))
    place = fleet.placement_of("a")
    assert place is not None
    assert (place.replica, place.cached_tokens) == ("1", 8800)
    stream.close()
    fleet.generate(ask("b", [7, *long]))
    assert fleet.placement_of("b") is not None
    assert fleet._router._loads["0"].expected.total() + fleet._router._loads["1"].expected.total() <= 8192 // SIZE


def test_a_long_prompt_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one replica has its beginning and another more."""
    hashed: list[int] = []

    def counted(parent: bytes, ids: list[int], *rest: Any) -> bytes:
        hashed.append(len(ids))
        return block_hash(parent, ids, *rest)

    lines = Line(), Line(), Line()
    fleet = scored(*lines)
    long = [number % 251 for number in range(9000)]
    publish(lines[0], long[:4000])
    publish(lines[1], long[:8800])
    publish(lines[2], long[:8192])
    monkeypatch.setattr(block_hashes, "block_hash", counted)
    stream = fleet.generate(ask("a", long))
    assert sum(hashed) == len(long) // SIZE * SIZE
    place = fleet.placement_of("a")
    assert place is not None
    assert (place.replica, place.cached_tokens) == ("1", 8800)
    load = fleet._router._loads["1"]
    assert set(load.expected) == {hash[:KEY_BYTES] for hash in prompt_hashes("base", BASE_KV, "", long, SIZE)}
    stream.close()


@pytest.mark.parametrize("at", [None, 0, 8000, 8190, 8192, 8197, 8999])
def test_the_parts_of_a_long_prompts_hashes_are_those_of_the_whole(at: int | None) -> None:
    """Wherever an activated LoRA begins."""
    reach = KvReach("k", (7,))
    prompt = [7 if number == at else 9 for number in range(9000)]
    begins, ends = prompt_hashes_by("base", lambda digest: reach)(ask("a", prompt, "d", "s"), SIZE)
    assert [len(begins), len(ends)] == [8192 // SIZE, 9000 // SIZE - 8192 // SIZE]
    assert begins + ends == prompt_hashes("base", reach, "s", prompt, SIZE)


def test_what_was_given_up_counts_no_more() -> None:
    lines = Line(), Line()
    fleet = scored(*lines)
    publish(lines[0], CONTEXT)
    publish(lines[1], CONTEXT[: 2 * SIZE])
    assert place(fleet, ask("a", [*CONTEXT, 1])) == "0"
    publish(lines[0], CONTEXT, removed=True)
    assert place(fleet, ask("b", [*CONTEXT, 1])) == "1"
    lines[1].cache_followers.end()
    publish(lines[0], CONTEXT)
    assert place(fleet, ask("c", [*CONTEXT, 1])) == "0"


def test_requests_that_come_together_share_what_the_first_computes_and_part_otherwise() -> None:
    """Nothing is cached yet: twins follow the first, strangers go to the idle one."""
    lines = Line(), Line()
    fleet = scored(*lines)
    streams = [fleet.generate(ask(f"a{number}", [*CONTEXT, number])) for number in range(3)]
    first = fleet.replica_of("a0")
    assert [fleet.replica_of(f"a{number}") for number in range(3)] == [first] * 3
    streams.append(fleet.generate(ask("b", [*OTHER, 1])))
    assert fleet.replica_of("b") != first


def test_a_hot_beginning_spreads_once_waiting_for_it_takes_longer_than_computing_it() -> None:
    lines = Line(), Line()
    fleet = scored(*lines)
    publish(lines[0], CONTEXT)
    streams = [
        fleet.generate(ask(f"a{number}", [*CONTEXT, *range(1000 * number, 1000 * number + SIZE)]))
        for number in range(40)
    ]
    places = [fleet.replica_of(stream.request.id) for stream in streams]
    assert places[0] == "0"
    assert 10 < places.count("0") < 30


def test_a_new_adapter_has_a_home_though_no_replica_is_quite_as_fast_as_another() -> None:
    lines = Line(), Line()
    fleet = scored(*lines)
    homes = {digest: place(fleet, ask(f"{digest}-0", [1, 2, 3], digest)) for digest in map(str, range(20))}
    assert set(homes.values()) == {"0", "1"}
    assert {digest: place(scored(Line(), Line()), ask("x", [1], digest)) for digest in homes} == homes
    works(lines[0], 1000, 1.1)
    assert {digest: place(fleet, ask(f"{digest}-1", [1, 2, 3], digest)) for digest in homes} == homes
    for line in lines:
        moves(line, **dict.fromkeys(homes, "slot"))
    prompts = [[number] * SIZE + [1] for number in range(20)]
    beginnings = [place(fleet, ask(f"p{number}", prompt, "0")) for number, prompt in enumerate(prompts)]
    assert set(beginnings) == {"0", "1"}, "where both have the adapter, each beginning has a home"
    assert beginnings == [place(fleet, ask(f"q{number}", prompt, "0")) for number, prompt in enumerate(prompts)]


def works(line: Line, tokens: int, seconds: float) -> None:
    """The line's next heartbeat: it has computed so many tokens of prompts in so many seconds."""
    old = line.stats
    line.stats = EngineStats(
        steps=old.steps + 1, prompt_tokens=old.prompt_tokens + tokens, step_seconds=old.step_seconds + seconds
    )


def test_a_replica_that_was_slow_once_is_tried_again() -> None:
    lines, now = (Line(), Line()), [0.0]
    fleet = scored(*lines)
    fleet._router._clock = lambda: now[0]
    prompts = [[number] * 4 * SIZE for number in range(20)]

    def places() -> set[str | None]:
        now[0] += 1
        return {place(fleet, ask(f"{now[0]}-{number}", prompt)) for number, prompt in enumerate(prompts)}

    for seconds in (0.1, 0.1, 9.0):
        works(lines[0], 1000, seconds)
        works(lines[1], 1000, 0.1)
        found = places()
    assert found == {"1"}
    for _ in range(60):
        works(lines[1], 1000, 0.1)
        found = places()
    assert found == {"0", "1"}


@pytest.mark.parametrize("policy", ["score", "least-loaded", "round-robin"])
def test_what_waits_is_measured_by_the_pace_that_the_replicas_have(policy: str) -> None:
    lines = Line(), Line()
    fleet = fleet_of(*lines, policy=policy)
    fleet.load()
    for _ in range(200):
        for line in lines:
            works(line, 1000, 20.0)
        fleet.load()
    for line in lines:
        line.stats = msgspec.structs.replace(line.stats, pending_prefill_tokens=500)
    load = fleet.load()
    assert load is not None
    assert load.queue_seconds == pytest.approx(10.0, rel=0.01)


def moves(line: Line, is_all: bool = False, **places: str) -> None:
    line._dispatch(AdapterMoves(places, is_all))


def test_an_adapter_is_where_the_engine_says_it_is() -> None:
    lines = Line(), Line()
    fleet = scored(*lines)
    home = place(fleet, ask("a", [1, 2, 3], "d"))
    away, others = (lines[1], "1") if home == "0" else (lines[0], "0")
    for number, where in enumerate(("cpu", "slot")):
        moves(away, d=where)
        assert place(fleet, ask(f"b{number}", [1, 2, 3], "d")) == others
    assert fleet.placement_of("b1") == Placement(others, "adapter", 0, 0.0015, 0.0015 + 0.05)
    moves(lines[int(home or 0)], d="cpu")
    assert place(fleet, ask("c", [1, 2, 3], "d")) == others, "in a slot it is sooner than in host memory"
    moves(away, d="disk")
    assert place(fleet, ask("d", [1, 2, 3], "d")) == home, "evicted, whatever was sent there"
    moves(away, d="slot")
    moves(away, is_all=True)
    assert place(fleet, ask("e", [1, 2, 3], "d")) == home, "another following knows nothing of it"
    moves(away, d="slot")
    away.dies()
    away.ready = READY
    assert place(fleet, ask("f", [1, 2, 3], "d")) == home, "what another life of the engine had is gone"


def test_requests_for_an_adapter_that_is_on_its_way_follow_it() -> None:
    fleet = scored(Line(), Line())
    kept = [fleet.generate(ask(f"a{number}", [number] * 3, "d")) for number in range(4)]
    assert len({fleet.replica_of(stream.request.id) for stream in kept}) == 1


def test_a_replica_whose_slots_are_all_in_use_gets_no_other_adapter() -> None:
    lines = Line(), Line()
    fleet = scored(*lines)
    home = place(fleet, ask("a", [1, 2, 3], "d"))
    busy, free = (lines[0], "1") if home == "0" else (lines[1], "0")
    moves(busy, d="cpu")
    assert place(fleet, ask("b", [1, 2, 3], "d")) == home
    kept = []
    for number in range(READY.lora_slots):
        kept.append(busy.generate(ask(f"k{number}", [1], f"other{number}")))
        busy.says(TokenDelta(request_id=f"k{number}", token_ids=[1]))
    assert place(fleet, ask("c", [1, 2, 3], "d")) == free
    moves(busy, d="slot")
    busy.pinned = {"d"}
    assert place(fleet, ask("d", [1, 2, 3], "d")) == home, "it has its slot"
    del kept


def test_a_replica_that_goes_takes_its_part_of_the_index_along() -> None:
    lines = Line(), Line()
    fleet = scored(*lines)
    publish(lines[0], CONTEXT)
    assert place(fleet, ask("a", [*CONTEXT, 1])) == "0"
    stream = fleet.generate(ask("b", [*CONTEXT, 2]))
    lines[0].dies()
    assert fleet.replica_of("b") == "1", "given to the other"
    assert not stream.has_failed
    lines[0].ready = READY
    lines[0].cache_followers.begin()
    publish(lines[1], CONTEXT)
    assert place(fleet, ask("c", [*CONTEXT, 3])) == "1"


def test_what_waits_is_taken_off_when_it_begins_or_is_left() -> None:
    lines = Line(), Line()
    fleet = scored(*lines)
    load = fleet._router._loads["0"]
    stream = fleet.generate(ask("a", CONTEXT))
    where = fleet.replica_of("a")
    load = fleet._router._loads[where or ""]
    assert load.pending_tokens() == len(CONTEXT)
    assert set(load.expected) == {hash[:KEY_BYTES] for hash in prompt_hashes("base", BASE_KV, "", CONTEXT, SIZE)}
    stream.close()
    assert (load.pending_tokens(), len(load.expected)) == (0, 0)


@given(seed=st.integers(0, 2**32 - 1))
def test_the_index_is_what_the_replicas_have(seed: int) -> None:
    random_of = random.Random(seed)
    index, held = BlockIndex(), [set[bytes]() for _ in range(3)]
    followers = [index.follower() for _ in range(3)]
    hashes = [bytes([number]) * 32 for number in range(24)]
    for _ in range(300):
        number = random_of.randrange(3)
        chosen = random_of.sample(hashes, random_of.randint(1, 4))
        kind = random_of.random()
        if kind < 0.02:
            followers[number].cleared()
            held[number].clear()
        else:
            followers[number].changed([CacheChange(b"".join(chosen), is_removal=kind < 0.5)])
            held[number] = held[number] - set(chosen) if kind < 0.5 else held[number] | set(chosen)
    expected = {hash[:KEY_BYTES]: sum(1 << n for n in range(3) if hash in held[n]) for hash in hashes}
    assert {key: index.holders(key) for key in expected} == expected
    assert len(index) == sum(bits > 0 for bits in expected.values())


@pytest.mark.parametrize("seed", range(3))
def test_one_that_is_followed_late_catches_up_while_blocks_come_and_go(seed: int) -> None:
    """Its engine tells what it holds page by page, each of which may be read before changes that are told before it."""
    random_of = random.Random(seed)
    hashes = [bytes([number]) * 32 for number in range(60)]
    held, index = set(random_of.sample(hashes, 30)), BlockIndex()
    follower = index.follower()

    def change() -> None:
        chosen, is_removal = set(random_of.sample(hashes, 3)), random_of.random() < 0.5
        follower.changed([CacheChange(b"".join(chosen), is_removal)])
        held.difference_update(chosen) if is_removal else held.update(chosen)

    with follower.catching_up():
        for first in range(0, 60, 20):
            page = [hash for hash in hashes[first : first + 20] if hash in held]
            for _ in range(random_of.randrange(4)):
                change()
            follower.held([CacheChange(b"".join(page))])
    for _ in range(5):
        change()
    assert {hash for hash in hashes if index.holders(hash[:KEY_BYTES])} == held


def test_the_place_of_one_that_left_is_the_next_ones() -> None:
    index = BlockIndex()
    first, second = index.follower(), index.follower()
    index.release(first.bit)
    assert (index.follower().bit, index.follower().bit, second.bit) == (first.bit, 4, 2)


def test_one_replica_is_never_asked_what_it_has() -> None:
    line = Line()
    fleet = fleet_of(line, policy="score")
    fleet.look_up_by(None)  # type: ignore[arg-type]
    fleet.generate(a_request("a"))
    assert len(line.requests) == 1
    assert not [message for message in line.sent if not hasattr(message, "request")]


def test_what_other_gateways_gave_a_replica_counts_once_and_its_own_is_not_counted_twice() -> None:
    lines = Line(), Line()
    fleet = scored(*lines)
    lines[0].load = EngineLoad(acked=0, pending_prefill_tokens=9000, running=3)
    assert [place(fleet, ask(f"r{n}", [n] * 40)) for n in range(4)] == ["1"] * 4
    lines[1].load = EngineLoad(acked=4, pending_prefill_tokens=9000, running=3)
    lines[0].load = EngineLoad(acked=0, pending_prefill_tokens=0, running=0)
    waits = fleet.generate(ask("waits", [7] * 400))
    assert fleet.replica_of("waits") == "0"
    # The engine has it now: the load that it tells is this very request.
    lines[0].load = EngineLoad(acked=1, pending_prefill_tokens=400, running=0)
    load = fleet._router._loads["0"]
    assert (load.pending_tokens(), load.others_tokens(lines[0].load)) == (400, 0)
    lines[0].load = EngineLoad(acked=1, pending_prefill_tokens=700, running=0)
    assert load.others_tokens(lines[0].load) == 300
    del waits
