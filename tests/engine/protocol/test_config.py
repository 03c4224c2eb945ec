"""The engine's sizes: what could never run anything is refused where it is written down."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from multiflora_engine.protocol.config import EngineConfig


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_num_seqs", 0),
        ("max_num_batched_tokens", -1),
        ("block_size", 0),
        ("max_model_len", 0),
        ("max_loras", 0),
        ("num_threads", 0),
        ("gpu_memory_utilization", 0.0),
        ("gpu_memory_utilization", 1.5),
    ],
)
def test_sizes_with_which_nothing_runs_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        EngineConfig(**{"model_path": "m", "artifact_root": "a", name: value})


def test_a_configuration_travels_whole() -> None:
    config = EngineConfig(model_path="m", artifact_root="a", max_model_len=None, kv_cache_memory=1 << 20, block_size=1)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=EngineConfig) == config
