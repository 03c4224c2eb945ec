"""Adapters come to slots, wait for one, and leave them for host memory."""

from __future__ import annotations

from multiflora_platform.fleet_simulation.slots import Slots


class Room:
    def __init__(self, capacity: int) -> None:
        self.loads: list[tuple[str, str]] = []
        self.moves: list[tuple[str, str]] = []
        self.slots = Slots(capacity, lambda *load: self.loads.append(load), lambda *move: self.moves.append(move))


def test_an_adapter_is_loaded_once_and_then_there() -> None:
    room = Room(2)
    assert not room.slots.take("a")
    assert not room.slots.take("a")
    assert room.loads == [("a", "disk")]
    room.slots.loaded("a")
    assert room.slots.take("a")
    assert room.moves == [("a", "slot")]


def test_the_one_that_was_taken_least_recently_makes_room_and_comes_back_from_the_host() -> None:
    room = Room(2)
    for digest in ("a", "b"):
        room.slots.take(digest)
        room.slots.loaded(digest)
        assert room.slots.take(digest)
    assert not room.slots.take("c")
    assert len(room.loads) == 2, "both are in use"
    room.slots.give_back("b")
    assert not room.slots.take("c")
    assert room.moves[-1] == ("b", "cpu")
    room.slots.loaded("c")
    room.slots.give_back("a")
    room.slots.take("b")
    assert room.loads == [("a", "disk"), ("b", "disk"), ("c", "disk"), ("b", "cpu")]
