"""How much memory a base model takes, as far as its files and settings tell, and whether there is as much."""

from __future__ import annotations

from pathlib import Path

from multiflora_engine.core.host_memory import available_host_memory
from multiflora_platform.base_models.model_problems import NotEnoughMemory
from multiflora_platform.observability.nvml import gpus
from multiflora_platform.settings import Settings

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def require_memory(name: str, folder: Path, checkpoint_dtype: str | None, settings: Settings) -> None:
    """For all replicas of a model in host memory. Raises NotEnoughMemory with the numbers.

    Engines on a GPU size themselves by what is free there, and say what is missing as they load.
    """
    if settings.device == "cuda" or (settings.device == "auto" and gpus()):
        return
    weights = weight_bytes(folder, checkpoint_dtype, settings.dtype)
    # Without --kv-cache-memory an engine takes a part of what is free: it never asks for more than there is.
    kv = (settings.kv_cache_memory or 0) * settings.num_ranks
    available = available_host_memory()
    if (weights + kv) * settings.replicas > available:
        raise NotEnoughMemory(name, weights, kv, settings.replicas, available)


def weight_bytes(folder: Path, checkpoint_dtype: str | None, dtype: str) -> int:
    """Of the checkpoint's files, as they become in dtype; auto: as they are, which is the least that they take."""
    on_disk = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    stored, served = _BYTES.get(checkpoint_dtype or ""), _BYTES.get(dtype)
    return on_disk if stored is None or served is None else on_disk * served // stored
