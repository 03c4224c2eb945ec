"""How many replicas a load wants, and how long it must want them."""

from __future__ import annotations

import pytest

from multiflora_platform.fleet.scaling import HotBlocks, Load, Scaler, Targets, wanted

TARGETS = Targets(queue_seconds=2.0, kv_use=0.5, seats=0.8, up_after=10, down_after=300)


def load(replicas: int = 4, queue: float = 0.0, kv: float = 0.0, seats: float = 0.0, hot: int = 0) -> Load:
    return Load(replicas, queue, kv, seats, hot, blocks=100)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (load(), 1),
        (load(queue=2.0), 4),
        (load(queue=2.1), 5),
        (load(queue=6.0, kv=0.5), 12),
        (load(kv=1.0, queue=0.1), 8),
        (load(seats=0.6), 3),
        (load(seats=1.0), 5),
        (load(hot=201), 3),
        (load(hot=1000), 4),
    ],
)
def test_the_scarcest_thing_decides_and_what_is_hot_keeps_its_room(one: Load, expected: int) -> None:
    assert wanted(one, TARGETS) == expected


def decided(scaler: Scaler, loads: list[Load]) -> list[int]:
    """A second apart."""
    return [scaler.decide(one, float(now)) for now, one in enumerate(loads)]


def test_more_are_started_when_they_were_wanted_all_the_while() -> None:
    rush, calm = load(2, queue=8.0), load(2, queue=1.9)
    assert decided(Scaler(1, 9, TARGETS), [rush] * 9 + [calm] + [rush] * 11) == [2] * 20 + [8]
    assert decided(Scaler(1, 9, TARGETS), [rush] * 5 + [load(2, queue=3.0)] + [rush] * 5)[-1] == 3
    assert decided(Scaler(1, 5, TARGETS), [rush] * 11)[-1] == 5


def test_fewer_run_only_after_long() -> None:
    assert decided(Scaler(1, 9, TARGETS), [load(4)] * 300) == [4] * 300
    assert decided(Scaler(1, 9, TARGETS), [load(4)] * 301)[-1] == 1
    assert decided(Scaler(2, 9, TARGETS), [load(4)] * 301)[-1] == 2
    assert decided(Scaler(1, 9, TARGETS), [load(4)] * 150 + [load(4, queue=1.4)] + [load(4)] * 150)[-1] == 3


def test_hot_blocks_are_those_of_the_window() -> None:
    hot = HotBlocks(100.0)
    hot.note([b"a", b"b"], 1.0)
    hot.note([b"b", b"c"], 60.0)
    assert hot.count(60.0) == 3
    assert hot.count(120.0) == 2
    assert hot.count(1000.0) == 0
