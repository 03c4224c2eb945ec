"""Engines start with the first request, become more and fewer with the load, and never end under a request."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from tests.platform.base_models.engines import Supervised

from multiflora_engine.process.supervisor import EngineFailed
from multiflora_engine.protocol.messages import EngineStats
from multiflora_platform.base_models.group_life import GroupLife
from multiflora_platform.fleet.fleet import Fleet
from multiflora_platform.fleet.replica import EngineReplica
from multiflora_platform.groups import Group


class Room:
    def __init__(self, engines: int, least: int, idle_seconds: float | None = 10.0) -> None:
        self.engines = [Supervised() for _ in range(engines)]
        self.fleet = Fleet([EngineReplica(f"b-{i}", one) for i, one in enumerate(self.engines)])  # type: ignore[arg-type]
        model: Any = SimpleNamespace(name="b", names=("b",))
        self.group = Group(model, "c" * 64, self.fleet, SimpleNamespace())  # type: ignore[arg-type]
        self.now = self.group.last_used
        self.life = self.group.waker = GroupLife(self.group, self.fleet, least, idle_seconds, lambda: self.now)

    @property
    def states(self) -> list[str]:
        return [one.state for one in self.engines]


async def test_all_who_wait_share_one_start() -> None:
    room = Room(1, 0)
    room.engines[0].gate.clear()
    assert room.group.asleep
    assert room.fleet.replicas[0].retired
    waiting = [asyncio.create_task(room.life.wake()) for _ in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    room.engines[0].gate.set()
    await asyncio.gather(*waiting[1:])
    assert not room.group.asleep
    assert not room.fleet.replicas[0].retired
    assert room.engines[0].starts == 1


async def test_the_last_engine_ends_after_the_idle_time_and_the_next_request_starts_it_again() -> None:
    room = Room(1, 0)
    await room.life.wake()
    first = room.fleet.replicas[0].epoch
    room.now += 9.9
    await room.life.tend()
    assert room.states == ["ready"]
    room.now += 0.2
    await room.life.tend()
    assert (room.states, room.group.asleep) == (["stopped"], True)
    await room.life.tend()
    assert room.engines[0].stops == 1
    await room.life.wake()
    assert (room.states, room.group.asleep) == (["ready"], False)
    # What it had cached is lost: another life.
    assert room.fleet.replicas[0].epoch == first + 1


async def test_no_engine_ends_under_a_request_however_long_it_takes() -> None:
    room = Room(1, 0)
    await room.life.wake()
    with room.group.used():
        room.now += 1000
        await room.life.tend()
        assert room.states == ["ready"]
    room.now = room.group.last_used + 10
    await room.life.tend()
    assert room.states == ["stopped"]


async def test_a_request_that_comes_as_the_engines_end_wakes_them() -> None:
    room = Room(1, 0)
    await room.life.wake()
    room.now += 11
    ending = asyncio.create_task(room.life.tend())
    await asyncio.sleep(0)
    assert room.group.asleep
    await asyncio.gather(ending, room.life.wake())
    assert (room.states, room.group.asleep) == (["ready"], False)


async def test_beyond_the_minimum_they_end_when_no_request_comes() -> None:
    room = Room(3, 1)
    await busy(room, 3)
    room.now += 11
    await room.life.tend()
    assert room.states == ["ready", "stopped", "stopped"]
    assert not room.group.asleep
    room.now = room.group.last_used + 1
    await room.life.tend()
    assert [one.starts for one in room.engines] == [1, 1, 1]


async def test_without_an_idle_time_the_last_one_stays() -> None:
    room = Room(2, 1, None)
    await room.life.wake()
    room.now += 1e6
    await room.life.tend()
    assert [one.stops for one in room.engines] == [0, 0]


def load(room: Room, running: int) -> None:
    """Of 8 seats each."""
    for one in room.engines:
        one.client.stats = EngineStats(running=running, num_blocks=64, free_blocks=64)


async def pass_seconds(room: Room, seconds: int) -> None:
    for _ in range(seconds):
        room.now += 1.0
        await room.life.tend()
        for one in room.fleet.replicas:
            if one.supervisor.state == "starting" and not one.retired:
                await one.supervisor.wait_ready()


async def busy(room: Room, engines: int) -> None:
    """So many serve."""
    await room.life.wake()
    load(room, 8)
    with room.group.used():
        await pass_seconds(room, 12 * engines)
    assert room.states.count("ready") == engines


async def test_more_engines_start_while_the_load_wants_them() -> None:
    room = Room(3, 1, 1000.0)
    await room.life.wake()
    load(room, 6)
    await pass_seconds(room, 60)
    assert [one.starts for one in room.engines] == [1, 0, 0]
    load(room, 8)
    await pass_seconds(room, 9)
    assert [one.starts for one in room.engines] == [1, 0, 0], "a short rush starts none"
    await pass_seconds(room, 3)
    assert [one.starts for one in room.engines] == [1, 1, 0]


async def test_fewer_run_after_a_while_and_what_leaves_answers_first() -> None:
    room = Room(2, 1, 1000.0)
    await busy(room, 2)
    load(room, 1)
    room.engines[1].client.in_flight = 1
    await pass_seconds(room, 299)
    assert not room.fleet.replicas[1].retired
    await pass_seconds(room, 3)
    assert room.fleet.replicas[1].retired
    await pass_seconds(room, 60)
    assert room.states == ["ready", "ready"]
    room.engines[1].client.in_flight = 0
    await pass_seconds(room, 1)
    assert room.states == ["ready", "stopped"]
    load(room, 8)
    await pass_seconds(room, 12)
    assert (room.states, room.engines[1].starts) == (["ready", "ready"], 2)


async def test_a_start_that_failed_is_tried_again_by_the_next_request() -> None:
    room = Room(1, 0)
    room.engines[0].fails = True
    with pytest.raises(EngineFailed, match="no memory"):
        await room.life.wake()
    assert room.group.asleep
    room.engines[0].fails = False
    await room.life.wake()
    assert room.engines[0].starts == 2
    assert not room.group.asleep


async def test_what_has_ended_for_good_is_not_woken() -> None:
    room = Room(1, 0)
    room.engines[0].gate.clear()
    waiting = asyncio.create_task(room.life.wake())
    await asyncio.sleep(0)
    await room.life.end()
    with pytest.raises((EngineFailed, asyncio.CancelledError)):
        await waiting
    with pytest.raises(EngineFailed):
        await room.life.wake()
    assert room.states == ["stopped"]
