"""The tiers that a configuration asks for, behind one engine's KV cache."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from multiflora_engine.core.kv_cache import KVCache
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
    config: EngineConfig, cache: KVCache, identity: Mapping[str, object], available: int
) -> Offloading | None:
    """None where no copies are wanted. identity: all that KV depends on beside a block's hash and how the cache lies in
    memory. available: bytes of the host's memory that are this engine's to use.

    Raises OffloadFolderUnusable.
    """
    if not config.enable_prefix_caching or (config.kv_offload_bytes is None and config.kv_offload_dir is None):
        return None
    memory = block_memory(cache)
    tiers: list[Tier] = []
    folder = None
    if config.kv_offload_bytes is not None:
        tiers.append(_host_tier(config.kv_offload_bytes, memory.block_bytes, available))
    if config.kv_offload_dir is not None:
        folder = open_folder(
            Path(config.kv_offload_dir).expanduser(), {**identity, **_layout(cache)}, config.kv_offload_disk_bytes
        )
        tiers.append(_disk_tier(folder, memory.block_bytes, config.kv_offload_dir))
    is_shared = cache.keys[0].device.type == "cpu"
    return Offloading(tiers, memory, cache.num_blocks, cache.block_size, paced=is_shared, folder=folder)


def _layout(cache: KVCache) -> dict[str, object]:
    parts = [f"{tensor.dtype} {list(tensor.shape[1:])}" for tensor in (*cache.keys, *cache.values)]
    return {"format": _FORMAT, "block_size": cache.block_size, "device": cache.keys[0].device.type, "parts": parts}


def _host_tier(asked: int, block_bytes: int, available: int) -> HostTier:
    most = max(0, int(available * _HOST_PART))
    if asked > most:
        _log.warning(
            "Copies of KV blocks get %d bytes of host memory instead of %d: half of what is free for this engine.",
            most,
            asked,
        )
    return HostTier(block_bytes, min(asked, most) // block_bytes)


def _disk_tier(folder: OffloadFolder, block_bytes: int, name: str) -> DiskTier:
    num_slots = max(0, folder.num_bytes) // (block_bytes + ENTRY_BYTES)
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
