"""The KV cache's memory when there is too little of it."""

from __future__ import annotations

import pytest
import torch
from tests.engine.models.cases import CONFIG

from multiflora_engine.execution.kv_memory import allocate_kv_cache
from multiflora_engine.models.errors import ModelError


def test_a_cache_beyond_the_memory_is_a_sentence() -> None:
    with pytest.raises(ModelError, match=r"does not fit into the memory of cpu\. Give a smaller --kv-cache-memory"):
        allocate_kv_cache(CONFIG, 1 << 40, 16, torch.float32, torch.device("cpu"))
