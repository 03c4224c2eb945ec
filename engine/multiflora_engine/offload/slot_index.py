"""The file that says which block's copy lies in which slot: an entry of fixed size for each, with its own checksum.

A slot's entry is cleared before its content is overwritten and written again behind it, so what a crash leaves is an
entry that is missing, or one whose content does not fit its checksum.
"""

from __future__ import annotations

import os
import struct
import zlib

from multiflora_engine.cache.block_hashes import HASH_BYTES
from multiflora_engine.cache.published_blocks import TAG_BYTES
from multiflora_engine.offload.tier_slots import KeptBlock

OWNER_BYTES = 16
CHECKSUM_BYTES = 20

_MAGIC = b"MFK1"
# Magic, the checksum of what follows; hash, owner, checksum of the content, tag of the parent's hash, depth, used_at,
# uses.
_HEAD = struct.Struct("<4sI")
_BODY = struct.Struct(f"<{HASH_BYTES}s{OWNER_BYTES}s{CHECKSUM_BYTES}s{TAG_BYTES}sIIB3x")
ENTRY_BYTES = 96
assert _HEAD.size + _BODY.size == ENTRY_BYTES, "slots are found by multiplication"
_EMPTY = bytes(ENTRY_BYTES)


class SlotIndex:
    """fd: of the open file, which is its owner's to close. All methods raise OSError."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read_all(self) -> dict[int, KeptBlock]:
        """The blocks of all entries that are whole, by slot."""
        content = bytearray()
        while part := os.pread(self._fd, 1 << 20, len(content)):
            content += part
        blocks = {}
        for slot in range(len(content) // ENTRY_BYTES):
            block = _decoded(bytes(content[slot * ENTRY_BYTES : (slot + 1) * ENTRY_BYTES]))
            if block is not None:
                blocks[slot] = block
        return blocks

    def read(self, slot: int) -> KeptBlock | None:
        """None: the entry is cleared, damaged or missing."""
        return _decoded(os.pread(self._fd, ENTRY_BYTES, slot * ENTRY_BYTES))

    def write(self, slot: int, block: KeptBlock) -> None:
        body = _BODY.pack(block.hash, block.owner, block.checksum, block.parent, block.depth, block.used_at, block.uses)
        write_all(self._fd, memoryview(_HEAD.pack(_MAGIC, zlib.crc32(body)) + body), slot * ENTRY_BYTES)

    def clear(self, slot: int) -> None:
        write_all(self._fd, memoryview(_EMPTY), slot * ENTRY_BYTES)


def write_all(fd: int, content: memoryview, offset: int) -> None:
    """Raises OSError: a full disk may take a part of what it is given."""
    while content:
        written = os.pwrite(fd, content, offset)
        content, offset = content[written:], offset + written


def _decoded(entry: bytes) -> KeptBlock | None:
    if len(entry) < ENTRY_BYTES:
        return None
    magic, checksum = _HEAD.unpack_from(entry)
    body = entry[_HEAD.size :]
    if magic != _MAGIC or zlib.crc32(body) != checksum:
        return None
    hash, owner, content, parent, depth, used_at, uses = _BODY.unpack(body)
    return KeptBlock(hash, owner, parent, depth, used_at, uses, content)
