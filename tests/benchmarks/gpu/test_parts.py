"""Every part of the first contact runs on a card that is not there: all of the host's code for a GPU, no kernel."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from gpu import steps
from gpu.case import Setting
from gpu.catalogue import PARTS
from gpu.fake.card import FakeCard, fake_card
from gpu.parts import decode, prefill, smoke, taxes

REHEARSED = [part.name for part in PARTS if part.name != "peers"]
"""What generates with transformers asks tensors for their contents."""

MOST = 6
"""Cases of a part: the first and the last of them."""


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCard]:
    """With short runs of few graphs."""
    monkeypatch.setattr(steps, "_STEPS", 2)
    monkeypatch.setattr(steps, "_WARM_STEPS", 1)
    monkeypatch.setattr("multiflora_engine.execution.device_side.graph_sizes", lambda most: [1, 8])
    monkeypatch.setattr("multiflora_engine.execution.device_side.mixed_sizes", lambda most: [64])
    monkeypatch.setattr(decode, "LOADS", ((1, 0), (8, 8)))
    monkeypatch.setattr(taxes, "PAIRS", ((1, 1),))
    monkeypatch.setattr(prefill, "LENGTHS", (1024,))
    monkeypatch.setattr(smoke, "_LENGTHS", (1, 17))
    monkeypatch.setattr(smoke, "_NEW_TOKENS", 4)
    monkeypatch.setattr(smoke, "LOADS", {"base": [None, None], "mixed": [None, smoke.adapter_digest(16, 0)]})
    with fake_card(compiles=False) as card:
        yield card


@pytest.mark.parametrize("part", REHEARSED)
def test_a_part_runs(part: str, card: FakeCard) -> None:
    setting = Setting(layers=1, known_limits=(1e12, 1e15))
    cases = list(importlib.import_module(f"gpu.parts.{part}").cases(setting))
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), "a second case of a name would be taken for done"
    for case in [*cases[: MOST // 2], *cases[MOST // 2 :][-MOST // 2 :]]:
        row = case.run()
        assert row
        assert not {"part", "case", "seconds", "error", "began", "again"} & set(row)
    assert card.races == []
    assert part == "device" or card.launches


def test_smoke_tells_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, whose engine is all three: an adapter changes what is said, and another answer is found."""
    torch.set_num_threads(1)
    monkeypatch.setattr(smoke, "_LENGTHS", (5, 17))
    monkeypatch.setattr(smoke, "_NEW_TOKENS", 6)
    monkeypatch.setattr(smoke, "LOADS", {"base": [None, None], "mixed": [None, smoke.adapter_digest(16, 0)]})
    base, mixed = list(smoke.cases(Setting(device="cpu")))[:2]
    assert base.run() == {"tokens": 12, "graphs_as_eager": 1.0, "eager_as_cpu": 1.0}
    assert mixed.run()["as_the_base"] < 0.9
    answers, serial = smoke._answers, iter(range(100))

    def off(*arguments: Any) -> list[list[int]]:
        found = answers(*arguments)
        return [[token + 1 for token in found[0]], *found[1:]] if next(serial) == 1 else found

    monkeypatch.setattr(smoke, "_answers", off)
    with pytest.raises(AssertionError, match="prompt of 5"):
        base.run()
