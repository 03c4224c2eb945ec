"""A host's artifacts within so many bytes, where all of them can be had again: what was needed longest ago goes first.

Knows folders, their sizes and leases, not where artifacts come from.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from multiflora_adapters.storage.leases import ArtifactLeases

IsUsed = Callable[[str], bool]
"""Of a digest."""


class _Kept(NamedTuple):
    used_at: float
    digest: str
    size: int


class HostCache:
    """max_bytes: None keeps all. bytes: what was there when room was made last. fetches, fetched_bytes, evictions: of
    this process, since it started.

    Neither an artifact that a process holds a lease on goes, nor one that `is_used` says. One that is larger than
    `max_bytes` stays until the next one comes.
    """

    def __init__(
        self,
        root: Path,
        leases: ArtifactLeases,
        max_bytes: int | None,
        set_aside: Callable[[str], Path | None],
        discard: Callable[[Path], None],
    ) -> None:
        """set_aside, discard: as the store has them."""
        self._root = root
        self._leases = leases
        self._set_aside = set_aside
        self._discard = discard
        self.max_bytes = max_bytes
        self.bytes = 0
        self.fetches = 0
        self.fetched_bytes = 0
        self.evictions = 0

    def touch(self, digest: str) -> None:
        """It is needed now."""
        if self.max_bytes is not None:
            with contextlib.suppress(FileNotFoundError):
                os.utime(self._root / digest)

    def note_fetch(self, digest: str) -> None:
        self.fetches += 1
        self.fetched_bytes += _size(self._root / digest)

    def make_room(self, wanted: int = 0, is_used: IsUsed = lambda digest: False) -> None:
        """wanted: bytes that are about to come. Blocks for as long as the disk takes."""
        if self.max_bytes is None:
            return
        kept = [_Kept(_used_at(path), path.name, _size(path)) for path in self._root.iterdir() if len(path.name) == 64]
        self.bytes = sum(one.size for one in kept)
        for one in sorted(kept):
            if self.bytes + wanted <= self.max_bytes:
                return
            if is_used(one.digest):
                self.touch(one.digest)
            elif self._evict(one.digest):
                self.bytes -= one.size

    def _evict(self, digest: str) -> bool:
        """False where a process needs it."""
        with self._leases.alone(digest) as is_alone:
            aside = self._set_aside(digest) if is_alone else None
        if aside is not None:
            self._discard(aside)
            self.evictions += 1
        return aside is not None


def _used_at(folder: Path) -> float:
    """0.0: it has just gone."""
    with contextlib.suppress(FileNotFoundError):
        return folder.stat().st_mtime
    return 0.0


def _size(folder: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return sum(file.stat().st_size for file in folder.iterdir())
    return 0
