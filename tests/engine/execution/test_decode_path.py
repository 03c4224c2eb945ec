"""One decode step on a CPU takes a short way through the code: counted, so that it does not grow unnoticed."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import LlamaConfig

from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams

ROOT = Path(__file__).parents[3]
SOURCES = tuple(str(ROOT / name) for name in ("engine", "kernels", "adapters"))
MOST_FILES = 26
MOST_CALLS = 302


def test_a_steady_decode_takes_a_short_way(tiny_config: Any, save_model: Any, start_engine: Any) -> None:
    """Six greedy sequences of the base on two layers, in the middle of a block."""
    _, folder = save_model(tiny_config(LlamaConfig))
    engine = start_engine(folder, max_num_batched_tokens=64).engine
    params = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
    for i in range(6):
        engine.add_request(GenerateRequest(id=str(i), prompt_token_ids=list(range(10 + i, 16 + i)), params=params))
    for _ in range(5):
        engine.step()
    calls: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(SOURCES):
            calls[frame.f_code.co_filename] += 1

    sys.setprofile(count)
    try:
        deltas = engine.step()
    finally:
        sys.setprofile(None)
    assert len(deltas) == 6, "each sequence got a token"
    assert len(calls) <= MOST_FILES, sorted(calls)
    assert calls.total() <= MOST_CALLS
