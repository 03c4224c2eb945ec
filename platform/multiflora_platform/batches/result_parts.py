"""A batch's results in a bucket while they grow: parts that lie one behind the other. Knows no bucket and no batches.

Each part but the last is full. As lines come, the last one is written anew and longer, under another key, until it is
full: so there are few of them, and none that a row names ever changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

PART_BYTES = 8 << 20


class ResultPart(msgspec.Struct, frozen=True):
    key: str
    """In the bucket."""
    size: int
    """In bytes."""
    digest: str
    """SHA-256, in hex."""


class SavedParts(msgspec.Struct, frozen=True):
    """What a batch's row names of its two result files."""

    output: list[ResultPart] = []
    error: list[ResultPart] = []

    def not_in(self, other: SavedParts) -> list[ResultPart]:
        named = {part.key for part in (*other.output, *other.error)}
        return [part for part in (*self.output, *self.error) if part.key not in named]


def kept(parts: Sequence[ResultPart]) -> list[ResultPart]:
    """Those that stay as they are when more lines come."""
    return [part for part in parts if part.size == PART_BYTES]


def new_part(file_id: str, offset: int, content: bytes) -> ResultPart:
    """offset: of its first byte in the file."""
    digest = hashlib.sha256(content).hexdigest()
    return ResultPart(f"results/{file_id}/{offset}-{digest}", len(content), digest)
