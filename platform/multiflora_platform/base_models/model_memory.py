"""How much memory a base model takes, as far as its files and settings tell, and whether there is as much."""

from __future__ import annotations

from pathlib import Path

from multiflora_engine.core.host_memory import available_host_memory
from multiflora_engine.models.checkpoint import served_bytes
from multiflora_platform.base_models.model_problems import NotEnoughMemory
from multiflora_platform.observability.nvml import gpus
from multiflora_platform.settings import Settings


def require_memory(name: str, folder: Path, checkpoint_dtype: str | None, settings: Settings) -> None:
    """For all replicas of a model in host memory. Raises NotEnoughMemory with the numbers.

    Engines on a GPU size themselves by what is free there, and say what is missing as they load.
    """
    if settings.device == "cuda" or (settings.device == "auto" and gpus()):
        return
    weights = served_bytes(folder, checkpoint_dtype, settings.dtype)
    # Without --kv-cache-memory an engine takes a part of what is free: it never asks for more than there is.
    kv = (settings.kv_cache_memory or 0) * settings.num_ranks
    available = available_host_memory()
    if (weights + kv) * settings.replicas > available:
        raise NotEnoughMemory(name, weights, kv, settings.replicas, available)
