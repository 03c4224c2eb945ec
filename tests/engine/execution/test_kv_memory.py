"""The KV cache's memory when there is too little of it."""

from __future__ import annotations

import pytest
import torch
from msgspec.structs import replace
from tests.engine.models.cases import CONFIG

from multiflora_engine.execution import kv_memory
from multiflora_engine.execution.kv_memory import allocate_kv_cache, size_kv_cache
from multiflora_engine.models.errors import ModelError
from multiflora_engine.protocol.config import SizedConfig


def test_more_than_is_available_is_refused_before_it_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    """An allocation of twice the memory succeeds on Linux; the process is killed when it fills it."""
    monkeypatch.setattr(kv_memory, "available_host_memory", lambda: 1 << 30)
    device = torch.device("cpu")
    fits = SizedConfig(model_path="x", artifact_root="", kv_cache_memory=1 << 30)
    assert size_kv_cache(fits, CONFIG, torch.float32, device).num_blocks > 0
    with pytest.raises(ModelError, match=r"asks for 1\.50 GiB, and 1\.00 GiB .*Give a smaller --kv-cache-memory"):
        size_kv_cache(replace(fits, kv_cache_memory=3 << 29), CONFIG, torch.float32, device)


def test_engines_of_one_machine_ask_for_their_memory_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that starts again beside others, which hold theirs, asks for its own."""
    monkeypatch.setattr(kv_memory, "available_host_memory", lambda: 3 << 28)
    monkeypatch.setattr(kv_memory, "host_memory", lambda: 3 << 29)
    one = SizedConfig(model_path="x", artifact_root="", kv_cache_memory=3 << 28)
    size_kv_cache(replace(one, engines_per_host=2), CONFIG, torch.float32, torch.device("cpu"))
    with pytest.raises(ModelError, match=r"asks 3 times for 0\.75 GiB, and 1\.50 GiB"):
        size_kv_cache(replace(one, engines_per_host=3), CONFIG, torch.float32, torch.device("cpu"))


def test_a_cache_beyond_the_memory_is_a_sentence() -> None:
    with pytest.raises(ModelError, match=r"does not fit into the memory of cpu\. Give a smaller --kv-cache-memory"):
        allocate_kv_cache(CONFIG, 1 << 40, 16, torch.float32, torch.device("cpu"))
