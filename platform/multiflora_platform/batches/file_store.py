"""Bytes of uploaded and produced files in the data folder, by id. Knows no owners and no database."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from multiflora_platform.storage.disk_errors import full_disk_reported

_CHUNK = 1 << 20


class Readable(Protocol):
    async def read(self, size: int, /) -> bytes: ...


class FileStore:
    """Files under `root` (0700), each readable by its owner alone."""

    def __init__(self, root: Path) -> None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root = root
        for leftover in root.glob(".tmp-*"):
            leftover.unlink(missing_ok=True)

    def path(self, file_id: str) -> Path:
        """file_id: one that `new_id` made."""
        return self._root / file_id

    async def add(self, source: Readable) -> tuple[str, int]:
        """(id, bytes) of a new file, which is on the disk when this returns. Raises InsufficientStorage, OSError."""
        file_id = new_id()
        temporary = self._root / f".tmp-{file_id}"
        size = 0
        try:
            with full_disk_reported(), temporary.open("xb") as file:
                os.fchmod(file.fileno(), 0o600)
                while piece := await source.read(_CHUNK):
                    size += file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, self.path(file_id))
        finally:
            temporary.unlink(missing_ok=True)
        return file_id, size

    async def chunks(self, file_id: str) -> AsyncIterator[bytes]:
        with self.path(file_id).open("rb") as file:
            while piece := file.read(_CHUNK):
                yield piece

    def remove(self, file_id: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.path(file_id).unlink()


def new_id() -> str:
    return f"file-{uuid.uuid4().hex}"
