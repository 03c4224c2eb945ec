"""The tiers that a configuration asks for, behind one engine's KV cache."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from multiflora_engine.core.kv_cache import KVCache
from multiflora_engine.core.rank_group import RankGrid
from multiflora_engine.offload.block_memory import block_memory
from multiflora_engine.offload.disk_tier import DiskTier
from multiflora_engine.offload.folders import OffloadFolder, OffloadFolderUnusable, open_folder
from multiflora_engine.offload.host_tier import HostTier
from multiflora_engine.offload.offloading import Offloading
from multiflora_engine.offload.slot_index import ENTRY_BYTES
from multiflora_engine.offload.tier import Tier
from multiflora_engine.protocol.config import EngineConfig

_log = logging.getLogger(__name__)

_FORMAT = 1
# Of the host's memory that is available, what copies may take.
_HOST_PART = 0.5


def open_offloading(
    config: EngineConfig,
    cache: KVCache,
    identity: Mapping[str, object],
    available: int,
    grid: RankGrid | None = None,
) -> Offloading | None:
    """None where no copies are wanted. identity: all that KV depends on beside a block's hash and how the cache lies in
    memory. available: bytes of the host's memory that are this process's to use. grid: where the cache is one rank's
    part, all of which call this at once: they keep copies of as many blocks as the one that has the least room.

    Raises OffloadFolderUnusable.
    """
    if not config.enable_prefix_caching or (config.kv_offload_bytes is None and config.kv_offload_dir is None):
        return None
    memory = block_memory(cache)
    tiers: list[Tier] = []
    folder = None
    if config.kv_offload_bytes is not None:
        num_slots = _of_all(grid, _host_slots(config.kv_offload_bytes, memory.block_bytes, available))
        tiers.append(HostTier(memory.block_bytes, num_slots))
    if config.kv_offload_dir is not None:
        config, identity = _of_rank(config, grid), {**identity, **_layout(cache), **_part(grid)}
        name = str(config.kv_offload_dir)
        folder = open_folder(Path(name).expanduser(), identity, config.kv_offload_disk_bytes)
        num_slots = _of_all(grid, max(0, folder.num_bytes) // (memory.block_bytes + ENTRY_BYTES))
        tiers.append(_disk_tier(folder, memory.block_bytes, num_slots, name))
    is_shared = cache.keys[0].device.type == "cpu"
    return Offloading(tiers, memory, cache.num_blocks, cache.block_size, is_shared, folder)


def _of_all(grid: RankGrid | None, num_slots: int) -> int:
    """What the first rank has evicted no other one needs, and what it has they should have."""
    return num_slots if grid is None else min(grid.values_of_all(num_slots))


def _of_rank(config: EngineConfig, grid: RankGrid | None) -> EngineConfig:
    """Copies on disk are one process's: each rank has a folder and its part of the bytes."""
    if grid is None:
        return config
    folder = str(Path(str(config.kv_offload_dir)) / f"rank-{grid.place.rank}")
    disk_bytes = max(1, config.kv_offload_disk_bytes // grid.place.num_ranks)
    return replace(config, kv_offload_dir=folder, kv_offload_disk_bytes=disk_bytes)


def _part(grid: RankGrid | None) -> dict[str, object]:
    """Which heads and layers they are: parts of equal shape are not one another's."""
    if grid is None:
        return {}
    shard, stage = grid.place.shard, grid.place.stage
    return {"shard": [shard.rank, shard.size], "stage": [stage.number, stage.count]}


def _layout(cache: KVCache) -> dict[str, object]:
    parts = [f"{tensor.dtype} {list(tensor.shape[1:])}" for tensor in (*cache.keys, *cache.values)]
    return {"format": _FORMAT, "block_size": cache.block_size, "device": cache.keys[0].device.type, "parts": parts}


def _host_slots(asked: int, block_bytes: int, available: int) -> int:
    most = max(0, int(available * _HOST_PART))
    if asked > most:
        _log.warning(
            "Copies of KV blocks get %d bytes of host memory instead of %d: half of what is free for this engine.",
            most,
            asked,
        )
    return min(asked, most) // block_bytes


def _disk_tier(folder: OffloadFolder, block_bytes: int, num_slots: int, name: str) -> DiskTier:
    try:
        tier = DiskTier(folder.path, block_bytes, num_slots)
    except OSError as error:
        raise OffloadFolderUnusable(f"--kv-offload-dir {name} cannot be used: {error}.") from error
    if not num_slots:
        _log.warning(
            "No copy of a KV block fits into --kv-offload-dir %s: give a larger --kv-offload-disk-bytes, or another "
            "folder if other engines fill this one.",
            name,
        )
    _log.info("%s holds copies of %d KV blocks, and may hold %d.", folder.path, len(tier.slots), num_slots)
    return tier
