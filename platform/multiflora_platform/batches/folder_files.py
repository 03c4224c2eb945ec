"""Files of the batch API in the data folder, by id. Knows no owners and no database."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from multiflora_platform.batches.result_parts import ResultPart
from multiflora_platform.batches.stored_files import CHUNK, Readable, StoredFile, digest_of, received
from multiflora_platform.storage.disk_errors import full_disk_reported

_ABANDONED_SECONDS = 24 * 3600.0


class FolderFiles:
    """A FileStore under `root` (0700), each file readable by its owner alone. Servers that share the folder share the
    files."""

    def __init__(self, root: Path) -> None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root = root
        for leftover in root.glob(".tmp-*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - leftover.stat().st_mtime > _ABANDONED_SECONDS:
                    leftover.unlink()

    async def add(self, source: Readable) -> StoredFile:
        with full_disk_reported(), self.temporary() as (path, file):
            stored = await received(source, file)
            path.rename(self._path(stored.id))
        return stored

    def is_in_reach(self, file_id: str, digest: str | None) -> bool:
        return self._path(file_id).exists()

    async def open(self, file_id: str, digest: str | None) -> BinaryIO:
        return self._path(file_id).open("rb")

    async def remove(self, file_id: str, digest: str | None) -> None:
        self._path(file_id).unlink(missing_ok=True)

    async def resume(self, file_id: str, parts: Sequence[ResultPart]) -> FileIO:
        """The results that are in the folder, in a file that takes the old one's place: a server that has lost the
        batch and does not know it yet appends to what has no name any more."""
        with full_disk_reported(), self.temporary() as (fresh, copy):
            await asyncio.to_thread(_copy, self._path(file_id), copy)
            file = appendable(fresh)
            fresh.rename(self._path(file_id))
            return file

    async def secure(self, file_id: str, file: FileIO, parts: Sequence[ResultPart]) -> list[ResultPart]:
        """A line is safe from the end of its server when it is written."""
        return []

    async def drop(self, parts: Sequence[ResultPart]) -> None:
        pass

    async def keep(self, file_id: str, file: FileIO) -> StoredFile:
        await asyncio.to_thread(os.fsync, file.fileno())
        size = os.stat(file.fileno()).st_size
        if not size:
            await self.remove(file_id, None)
        return StoredFile(file_id, size, await asyncio.to_thread(digest_of, file))

    async def sweep(self, files: Collection[tuple[str, str | None]], parts: Collection[ResultPart]) -> None:
        """Files of servers with folders of their own are recorded, too: what is here is removed with its row."""

    @contextmanager
    def temporary(self) -> Iterator[tuple[Path, BinaryIO]]:
        """A file beside the others; if it has its name still in the end, it goes."""
        path = self._root / f".tmp-{uuid.uuid4().hex}"
        try:
            with path.open("xb") as file:
                path.chmod(0o600)
                yield path, file
        finally:
            path.unlink(missing_ok=True)

    def _path(self, file_id: str) -> Path:
        """file_id: one that `new_id` made, or that of a batch's results."""
        return self._root / file_id


def appendable(path: Path) -> FileIO:
    """Each write is the system's at once."""
    return path.open("a+b", buffering=0)


def _copy(source: Path, copy: BinaryIO) -> None:
    if source.exists():
        with source.open("rb") as earlier:
            shutil.copyfileobj(earlier, copy, CHUNK)
        copy.flush()
        os.fsync(copy.fileno())
