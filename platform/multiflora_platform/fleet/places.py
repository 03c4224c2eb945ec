"""Where each engine of this machine runs: with GPUs of its own, where there are any."""

from __future__ import annotations

import os
from collections.abc import Mapping

from multiflora_platform.observability.nvml import gpus


def places_of(engines: int, device: str, kv_cache_memory: int | None, ranks: int = 1) -> list[Mapping[str, str]]:
    """Variables of each engine's environment. ranks: of each engine, which takes as many GPUs. Raises ValueError where
    engines would have to share a GPU and it is not said how much of its memory each may take for KV blocks, and where
    ranks would have to."""
    if engines == 1 or device == "cpu":
        return [{} for _ in range(engines)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(gpu.index) for gpu in gpus()] if visible is None else [one for one in visible.split(",") if one]
    if not names:
        return [{} for _ in range(engines)]
    if ranks > 1 and len(names) < engines * ranks:
        raise ValueError(
            f"there are {len(names)} GPUs for {engines} engines of {ranks} ranks, which take one each; give a smaller "
            "--tensor-parallel-size or --pipeline-parallel-size"
        )
    if len(names) < engines and kv_cache_memory is None:
        raise ValueError(
            f"there are {len(names)} GPUs for {engines} engines; start as many as there are GPUs, or let engines share "
            "one by giving the bytes of KV blocks of each (--kv-cache-memory)"
        )
    own = [[names[(number * ranks + rank) % len(names)] for rank in range(ranks)] for number in range(engines)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus_of_one)} for gpus_of_one in own]
