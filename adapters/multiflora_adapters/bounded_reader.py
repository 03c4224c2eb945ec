"""A seekable reader of a plain or gzipped file with limits, for archive formats that trust their own headers."""

from __future__ import annotations

import gzip
import io
from typing import IO

_LARGEST_READ = 1 << 20


class ReadLimitError(ValueError):
    """More bytes were asked for than the limits allow."""


class BoundedReader(io.RawIOBase):
    """Reads at most `limit` bytes deep and 1 MiB at once: a header that claims gigabytes is never read into memory."""

    def __init__(self, file: IO[bytes], gzipped: bool, limit: int) -> None:
        self._file: IO[bytes] | gzip.GzipFile = gzip.GzipFile(fileobj=file, mode="rb") if gzipped else file
        self._limit = limit

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0 or size > _LARGEST_READ or self.tell() + size > self._limit:
            raise ReadLimitError("read beyond the limit")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if whence != io.SEEK_SET or offset > self._limit:
            raise ReadLimitError("seek beyond the limit")
        return self._file.seek(offset)
