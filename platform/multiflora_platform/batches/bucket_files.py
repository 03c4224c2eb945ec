"""Files of the batch API in the bucket that servers share. Knows no owners and no database.

    <prefix>/files/<file>/<digest>              one file, whole
    <prefix>/results/<file>/<offset>-<digest>   a part of a batch's results, while it runs

What comes from there is checked against the digest that the database has of it. Nothing of it stays in the data folder.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import FileIO
from typing import BinaryIO, TypeVar

from multiflora_platform.batches.folder_files import FolderFiles, appendable
from multiflora_platform.batches.result_parts import PART_BYTES, ResultPart, kept, new_part
from multiflora_platform.batches.stored_files import Readable, StoredFile, copied, digest_of, received
from multiflora_platform.storage.disk_errors import full_disk_reported
from multiflora_platform.storage.s3_bucket import S3Bucket
from multiflora_platform.web.problems import Unavailable

_RETENTION = timedelta(hours=24)
"""What was written before its row could be; a server elsewhere may be about to record it."""
T = TypeVar("T")


class BucketFiles:
    """A FileStore. folder: of this server, for what passes through, and for files of the time before the bucket."""

    def __init__(
        self, bucket: S3Bucket, folder: FolderFiles, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._bucket = bucket
        self._folder = folder
        self._clock = clock

    async def add(self, source: Readable) -> StoredFile:
        with full_disk_reported(), self._folder.temporary() as (path, file):
            stored = await received(source, file)
            await self._reached(self._bucket.put, _key(stored.id, stored.digest), path)
        return stored

    def is_in_reach(self, file_id: str, digest: str | None) -> bool:
        return digest is not None or self._folder.is_in_reach(file_id, digest)

    async def open(self, file_id: str, digest: str | None) -> BinaryIO:
        if digest is None or self._folder.is_in_reach(file_id, digest):
            return await self._folder.open(file_id, digest)
        with full_disk_reported(), self._folder.temporary() as (path, copy):
            await self._reached(self._bucket.get, _key(file_id, digest), copy)
            copy.flush()
            file = path.open("rb")
        if await asyncio.to_thread(digest_of, file) != digest:
            file.close()
            raise OSError(f"the artifact store's {_key(file_id, digest)} has other content")
        return file

    async def remove(self, file_id: str, digest: str | None) -> None:
        await self._folder.remove(file_id, digest)
        if digest is not None:
            await self._reached(self._bucket.delete, _key(file_id, digest))

    async def resume(self, file_id: str, parts: Sequence[ResultPart]) -> FileIO:
        with full_disk_reported(), self._folder.temporary() as (path, file):
            for part in parts:
                content = await self._reached(self._bucket.get_bytes, part.key)
                if hashlib.sha256(content).hexdigest() != part.digest:
                    raise OSError(f"the artifact store's {part.key} has other content")
                file.write(content)
            file.flush()
            return appendable(path)

    async def secure(self, file_id: str, file: FileIO, parts: Sequence[ResultPart]) -> list[ResultPart]:
        size, secured = os.stat(file.fileno()).st_size, list(parts)
        if size == sum(part.size for part in parts):
            return secured
        secured = kept(parts)
        for offset in range(len(secured) * PART_BYTES, size, PART_BYTES):
            content = os.pread(file.fileno(), min(PART_BYTES, size - offset), offset)
            part = new_part(file_id, offset, content)
            await self._reached(self._bucket.put_bytes, part.key, content)
            secured.append(part)
        return secured

    async def drop(self, parts: Sequence[ResultPart]) -> None:
        for part in parts:
            await self._reached(self._bucket.delete, part.key)

    async def keep(self, file_id: str, file: FileIO) -> StoredFile:
        with full_disk_reported(), self._folder.temporary() as (path, copy):
            stored = StoredFile(file_id, *await asyncio.to_thread(copied, file, copy))
            if stored.size:
                await self._reached(self._bucket.put, _key(file_id, stored.digest), path)
        return stored

    async def sweep(self, files: Collection[tuple[str, str | None]], parts: Collection[ResultPart]) -> None:
        recorded = {_key(file_id, digest) for file_id, digest in files if digest is not None}
        await self._reached(self._sweep, recorded | {part.key for part in parts})

    def _sweep(self, recorded: Collection[str]) -> None:
        for prefix in ("files/", "results/"):
            for found in list(self._bucket.objects(prefix)):
                if found.key not in recorded and self._clock() - found.written_at > _RETENTION:
                    self._bucket.delete(found.key)

    async def _reached(self, call: Callable[..., T], *arguments: object) -> T:
        """Raises Unavailable where the bucket cannot be reached or refuses, FileNotFoundError for what it lacks."""
        with _outages_explained():
            return await asyncio.to_thread(call, *arguments)


@contextmanager
def _outages_explained() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno is not None:  # the disk's
            raise
        raise Unavailable(f"Files of batches cannot be reached: {error}.") from error


def _key(file_id: str, digest: str) -> str:
    return f"files/{file_id}/{digest}"
