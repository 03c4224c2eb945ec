"""The identity of a KV block: its content, what of its adapter reaches it, and its tenant, chained.

Torch-free: routers compute it, too.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import blake2b

HASH_BYTES = 32


def root_hash(base_digest: str, kv_digest: str | None, cache_salt: str) -> bytes:
    """The parent of every first block. Each field has its tag and its length, so that none can pass for another.

    kv_digest: of the part of an adapter that the KV depends on (multiflora_adapters.kv_reach); None: of none.
    """
    state = blake2b(digest_size=HASH_BYTES, person=b"multiflora.root")
    for tag, value in ((b"B", base_digest), (b"A", kv_digest), (b"S", cache_salt)):
        if value is not None:
            content = value.encode()
            state.update(tag + struct.pack("<Q", len(content)) + content)
    return state.digest()


def block_hash(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """The hash of one full block after the block (or root) `parent`; token ids are unsigned 32-bit."""
    content = parent + struct.pack(f"<{len(token_ids)}I", *token_ids)
    return blake2b(content, digest_size=HASH_BYTES, person=b"multiflora.block").digest()


def hashes_behind(parent: bytes, token_ids: Sequence[int], block_size: int) -> list[bytes]:
    """Of the whole blocks of these tokens, which follow the block, or root, of the parent's hash."""
    hashes = []
    for start in range(0, len(token_ids) - block_size + 1, block_size):
        parent = block_hash(parent, token_ids[start : start + block_size])
        hashes.append(parent)
    return hashes


def chain_of(root: bytes, token_ids: Sequence[int], block_size: int) -> bytes:
    """The hashes of a prompt's whole blocks, one after another: of those that a prompt with these tokens can find, so
    without one that holds its last token."""
    return b"".join(hashes_behind(root, token_ids[:-1], block_size))
