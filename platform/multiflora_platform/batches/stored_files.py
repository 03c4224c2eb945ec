"""What a store of files is to batches and routes. Knows no owners and no database."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Collection, Iterator, Sequence
from io import FileIO
from typing import BinaryIO, NamedTuple, Protocol

from multiflora_platform.batches.result_parts import ResultPart

CHUNK = 1 << 20


class Readable(Protocol):
    async def read(self, size: int, /) -> bytes: ...


class StoredFile(NamedTuple):
    id: str
    size: int
    """In bytes."""
    digest: str
    """SHA-256, in hex."""


class FileStore(Protocol):
    """Files whole, and a batch's results while they grow. All raise Unavailable while the files cannot be reached, and
    InsufficientStorage where the disk is full."""

    async def add(self, source: Readable) -> StoredFile:
        """A new file, which is safe when this returns."""

    def is_in_reach(self, file_id: str, digest: str | None) -> bool:
        """Whether `open` would find it."""

    async def open(self, file_id: str, digest: str | None) -> BinaryIO:
        """The caller's to close. Raises FileNotFoundError, OSError for other content."""

    async def remove(self, file_id: str, digest: str | None) -> None:
        """What is not there is no error."""

    async def resume(self, file_id: str, parts: Sequence[ResultPart]) -> FileIO:
        """To append to, with the results that are safe: a file of this caller's own, which no earlier one writes."""

    async def secure(self, file_id: str, file: FileIO, parts: Sequence[ResultPart]) -> list[ResultPart]:
        """What was appended is safe once these parts are recorded in the place of the earlier ones."""

    async def drop(self, parts: Sequence[ResultPart]) -> None:
        """They are recorded no more."""

    async def keep(self, file_id: str, file: FileIO) -> StoredFile:
        """Nothing more is appended: from now on it is found as any other."""

    async def sweep(self, files: Collection[tuple[str, str | None]], parts: Collection[ResultPart]) -> None:
        """Lets go what is older than a day and neither a file nor a part that is recorded."""


async def received(source: Readable, file: BinaryIO) -> StoredFile:
    """Writes a new file's bytes to the disk."""
    hasher, size = hashlib.sha256(), 0
    while piece := await source.read(CHUNK):
        hasher.update(piece)
        size += file.write(piece)
    file.flush()
    os.fsync(file.fileno())
    return StoredFile(f"file-{uuid.uuid4().hex}", size, hasher.hexdigest())


def digest_of(file: FileIO | BinaryIO) -> str:
    """SHA-256 of a file from its beginning, in hex."""
    hasher = hashlib.sha256()
    for piece in _pieces(file):
        hasher.update(piece)
    return hasher.hexdigest()


def copied(file: FileIO, copy: BinaryIO) -> tuple[int, str]:
    """Writes all of a file to another; its size and digest."""
    hasher, size = hashlib.sha256(), 0
    for piece in _pieces(file):
        hasher.update(piece)
        size += copy.write(piece)
    copy.flush()
    return size, hasher.hexdigest()


def _pieces(file: FileIO | BinaryIO) -> Iterator[bytes]:
    offset = 0
    while piece := os.pread(file.fileno(), CHUNK, offset):
        yield piece
        offset += len(piece)
