"""All that can be found now, a part at a time in the order of the blocks' ids, for a mirror to begin with.

Parts may be of different moments: with the changes since the first of them, in order, they make what is held.
"""

from __future__ import annotations

import numpy as np

from multiflora_engine.cache.block_pool import BlockPool
from multiflora_engine.cache.cache_index import CacheIndex, Place
from multiflora_engine.protocol.cache_change import CacheChange


def held_blocks(pool: BlockPool, index: CacheIndex, first: int, stop: int) -> list[CacheChange]:
    """Those of ids [first, stop). A block may come before the one that it goes on from."""
    # Of each run the hash before it, the place of its blocks, and their hashes.
    runs: list[tuple[bytes, Place, list[bytes]]] = []
    for block_id in (np.flatnonzero(index.rows["place"][first:stop]) + first).tolist():
        hash = pool.hash_of(block_id)
        assert hash is not None, "the index has rows of published blocks alone"
        parent, place = _parent(pool, index, block_id), index.place(block_id)
        # A prompt's blocks mostly have ids in a row.
        if runs and runs[-1][1] == place and runs[-1][2][-1] == parent:
            runs[-1][2].append(hash)
        else:
            runs.append((parent, place, [hash]))
    return [CacheChange(b"".join(hashes), False, parent, place.adapter, place.owner) for parent, place, hashes in runs]


def _parent(pool: BlockPool, index: CacheIndex, block_id: int) -> bytes:
    """As CacheChange says."""
    if index.begins_prompt(block_id):
        return b""
    tag = index.parent_tag(block_id)
    parent = pool.find(tag)
    return tag if parent is None else pool.hash_of(parent) or tag
