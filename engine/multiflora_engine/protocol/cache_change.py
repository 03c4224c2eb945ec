"""What the prefix cache gained or lost at once: hashes of blocks, no text and no tokens. Torch-free."""

from __future__ import annotations

import msgspec


class CacheChange(msgspec.Struct, frozen=True, array_like=True):
    """Some blocks can be found from now on, or no more. Filled by ChangeLog and held_blocks.

    hashes: of HASH_BYTES each, one behind another; the first TAG_BYTES of one tell it from all others.
    """

    hashes: bytes
    is_removal: bool = False
    # Of blocks that are found, each of which goes on where the one before it ends: the hash of the block before the
    # first; b"" where that begins a prompt; TAG_BYTES of it where held_blocks knows no more.
    parent: bytes = b""
    # Digest; None: the base model.
    adapter: str | None = None
    # Whose sequence published it (Sequence.cache_owner).
    owner: str = ""
