"""An engine dies: what it had sent nothing of is answered by another one, what it had begun fails, with a type."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from tests.platform.fleet.lines import READY, Line, a_request, fleet_of

from multiflora_engine.process.supervisor import EngineSupervisor, Patience
from multiflora_engine.process.token_stream import TokenStream
from multiflora_engine.protocol.config import EngineConfig
from multiflora_engine.protocol.messages import Draining, Welcome, Withdraw, Withdrawn
from multiflora_engine.protocol.requests import GenerateRequest, TokenDelta
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_platform.fleet.fleet import Fleet
from multiflora_platform.fleet.processes import start_all, stop_all, wait_all_ready, wait_any_ready
from multiflora_platform.fleet.replica import EngineReplica
from multiflora_platform.fleet.routing import Router

FAKE = str(Path(__file__).parents[2] / "engine" / "process" / "fake_engine.py")


async def test_a_request_of_which_nothing_came_is_answered_by_another_engine() -> None:
    one, other = Line(), Line()
    fleet = fleet_of(other, one)
    stream = fleet.generate(a_request("r", deadline=1e12))
    one.dies()
    assert other.requests == one.requests
    assert (one.in_flight, other.in_flight, fleet.replica_of("r")) == (0, 1, "0")
    other.says(TokenDelta(request_id="r", token_ids=[7], finish_reason="stop"))
    assert [delta.token_ids async for delta in stream] == [[7]]


async def test_leaving_a_moved_stream_aborts_it_where_it_is() -> None:
    one, other = Line(), Line()
    stream = fleet_of(other, one).generate(a_request("r"))
    one.dies()
    stream.close()
    assert (one.in_flight, other.in_flight) == (0, 0)


async def test_a_stream_that_has_begun_ends_with_the_failure() -> None:
    one, other = Line(), Line()
    stream = fleet_of(other, one).generate(a_request("r", n=2))
    one.says(TokenDelta(request_id="r", token_ids=[7]))
    one.dies()
    deltas = [delta async for delta in stream]
    assert [delta.failure.code for delta in deltas if delta.failure] == ["engine_dead"] * 2
    assert other.requests == []


async def test_a_request_is_moved_twice_at_most() -> None:
    """Whatever kills its engines, it does not kill a fleet."""
    lines = [Line() for _ in range(4)]
    fleet = fleet_of(*lines)
    stream = fleet.generate(a_request("r"))
    for _ in range(3):
        line = lines[int(fleet.replica_of("r") or "")]
        line.dies()
    deltas = [delta async for delta in stream]
    assert [delta.failure.code for delta in deltas if delta.failure] == ["engine_dead"]
    assert sum(len(line.requests) for line in lines) == 3


async def test_without_another_engine_a_request_fails() -> None:
    for lines in ([Line()], [Line(), Line(None)]):
        stream = fleet_of(*lines).generate(a_request("r"))
        lines[0].dies()
        assert [d.failure.code async for d in stream if d.failure] == ["engine_dead"]


def begins(line: Line) -> None:
    """Its engine serves from now on."""
    line._dispatch(Welcome(1, READY, []))


def gives_back(line: Line) -> list[str]:
    """All that it was asked for last, of which nothing has come."""
    asked = [message.request_ids for message in line.sent if isinstance(message, Withdraw)]
    line._dispatch(Withdrawn(asked[-1]))
    return asked[-1]


def test_a_new_engine_gets_its_part_of_what_waits_the_last_first() -> None:
    one, other, new = Line(), Line(), Line(None)
    fleet = fleet_of(one, other, new, policy="least-loaded")
    kept = [fleet.generate(a_request(f"r{number}")) for number in range(12)]
    first = next(stream for stream in kept if fleet.replica_of(stream.request.id) == "0")
    one.says(TokenDelta(request_id=first.request.id, token_ids=[7]))
    begins(new)
    asked = gives_back(one) + gives_back(other)
    assert sorted(asked) == ["r10", "r11", "r8", "r9"]
    assert (one.in_flight, other.in_flight, new.in_flight) == (4, 4, 4)
    assert {fleet.replica_of(id) for id in asked} == {"2"}
    # No engine died of them: they may be rescued as often as others.
    assert {place.moves for id in asked if (place := fleet.placement_of(id))} == {0}


def test_what_begins_meanwhile_stays() -> None:
    one, new = Line(), Line(None)
    fleet = fleet_of(one, new, policy="least-loaded")
    kept = [fleet.generate(a_request(f"r{number}")) for number in range(2)]
    begins(new)
    assert one.sent[-1] == Withdraw(["r1"])
    one.says(TokenDelta(request_id="r1", token_ids=[7]))
    assert (one.in_flight, new.in_flight, len(kept)) == (2, 0, 2)


def test_an_engine_that_leaves_gives_back_all_that_it_has_not_begun() -> None:
    for is_told in (True, False):
        one, other = Line(), Line()
        fleet = fleet_of(one, other)
        kept = [fleet.generate(a_request(f"r{number}")) for number in range(6)]
        begun = next(stream.request.id for stream in kept if fleet.replica_of(stream.request.id) == "0")
        one.says(TokenDelta(request_id=begun, token_ids=[7]))
        if is_told:
            one._dispatch(Draining("SIGTERM"))
        else:
            fleet.retire(fleet.replicas[0])
        assert len(gives_back(one)) == 2
        assert (one.in_flight, other.in_flight) == (1, 5)


def test_the_last_engine_keeps_what_it_has() -> None:
    one, other = Line(), Line()
    fleet = fleet_of(one, other)
    kept = [fleet.generate(a_request(f"r{number}")) for number in range(4)]
    for line in (one, other):
        line._dispatch(Draining("SIGTERM"))
    gives_back(one)
    assert [message for message in other.sent if isinstance(message, Withdraw)] == []
    assert one.in_flight + other.in_flight == len(kept)


def test_what_was_moved_is_no_load_of_its_first_engine_any_more() -> None:
    one, new = Line(), Line(None)
    fleet = fleet_of(one, new, policy="score")
    kept = [fleet.generate(a_request(f"r{number}", prompt=[number] * 100)) for number in range(4)]
    load = fleet._router._loads["0"]
    before = load.pending_tokens()
    begins(new)
    gives_back(one)
    moved = fleet._router._loads["1"].pending_tokens()
    assert moved > 0
    assert load.pending_tokens() == before - moved
    assert sum(load.expected.values()) + sum(fleet._router._loads["1"].expected.values()) == 0
    assert len(kept) == 4


def test_an_engine_that_is_going_gets_nothing_while_another_serves() -> None:
    one, other = Line(), Line()
    fleet = fleet_of(one, other)
    one._dispatch(Draining("SIGTERM"))
    kept = [fleet.generate(a_request(f"r{number}")) for number in range(3)]
    assert (len(one.requests), len(other.requests), len(kept)) == (0, 3, 3)
    assert [replica.state for replica in fleet.replicas] == ["draining", "ready"]
    other.is_draining = True
    kept.append(fleet.generate(a_request("last")))
    assert len(one.requests) + len(other.requests) == 4
    assert fleet.state == "ready"


def _asked(id: str, max_tokens: int) -> GenerateRequest:
    return GenerateRequest(id=id, prompt_token_ids=[1, 10], params=SamplingParams(max_tokens=max_tokens))


async def _all(stream: TokenStream) -> list[TokenDelta]:
    return [delta async for delta in stream]


async def test_a_killed_process_costs_what_it_had_begun_and_one_that_is_told_to_end_costs_nothing() -> None:
    config = EngineConfig(model_path="fine", artifact_root="")
    patience = Patience(silence=60.0, loading=60.0, backoff=0.05)
    supervisors = [EngineSupervisor(config, patience=patience, command=(sys.executable, FAKE)) for _ in range(2)]
    fleet = Fleet(
        [EngineReplica(str(n), supervisor) for n, supervisor in enumerate(supervisors)], Router("round-robin")
    )
    await start_all(fleet)
    try:
        async with asyncio.timeout(60):
            await wait_all_ready(fleet)
            await fleet.adapter("pin", "digest")
            begun = [fleet.generate(_asked(f"long{number}", 100_000)) for number in range(2)]
            for stream in begun:
                await anext(stream)
            victim = int(fleet.replica_of("long0") or "")
            pid = supervisors[victim].pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            # Sent to a process that is dead, of which the fleet has not heard yet.
            waiting = [asyncio.ensure_future(_all(fleet.generate(_asked(f"short{number}", 3)))) for number in range(6)]
            assert [[d.token_ids for d in one] for one in await asyncio.gather(*waiting)] == [[[11], [12], [13]]] * 6
            assert [delta.failure.code for delta in await _all(begun[0]) if delta.failure] == ["engine_dead"]
            begun[1].close()
            await wait_any_ready(fleet)
            await supervisors[victim].wait_ready()
            assert [row.pinned for row in (await fleet.replicas[victim].status()).adapters] == [True]
            # The other one is told to end: it answers what it has, and new requests go to the one that is back.
            last = [asyncio.ensure_future(_all(fleet.generate(_asked(f"last{number}", 20)))) for number in range(4)]
            await asyncio.sleep(0)
            pid = supervisors[1 - victim].pid
            assert pid is not None
            os.kill(pid, signal.SIGTERM)
            while supervisors[1 - victim].restarts == 0:
                last.append(asyncio.ensure_future(_all(fleet.generate(_asked(f"new{len(last)}", 2)))))
                await asyncio.sleep(0.005)
            answers = await asyncio.gather(*last)
            assert [delta.failure for answer in answers for delta in answer if delta.failure] == []
            assert {answer[-1].finish_reason for answer in answers} == {"length"}
    finally:
        await stop_all(fleet)
