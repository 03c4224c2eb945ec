"""`from multiflora.distributed import cleanup_dist_env_and_memory`, as vLLM's programs write it between two models."""

from __future__ import annotations

import gc
import sys


def cleanup_dist_env_and_memory(shutdown_ray: bool = False) -> None:
    """What no object holds any more is freed, on a GPU as well. shutdown_ray: nothing of this program runs on it."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
