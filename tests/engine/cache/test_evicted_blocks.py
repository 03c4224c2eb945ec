"""What was evicted is remembered with its numbers, and not for ever."""

from __future__ import annotations

import pytest

from multiflora_engine.cache import evicted_blocks
from multiflora_engine.cache.evicted_blocks import Evicted, EvictedBlocks


def test_the_oldest_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evicted_blocks, "_REMEMBERED", 2)
    evicted = EvictedBlocks()
    for number in range(3):
        evicted.add(bytes([number]), uses=number, released=2**32 - 1 - number)
    assert evicted.find(b"\0") is None
    assert evicted.find(b"\1") == Evicted(1, 2**32 - 2)
    evicted.discard([b"\1"])
    evicted.discard([b"\1", b"\3"])
    assert b"\1" not in evicted
    assert b"\2" in evicted
