"""A request body becomes files in a scratch folder: streamed, counted, hashed, never whole in memory.

Knows multipart and which file names count; does not know adapters, versions or what a valid file is.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from multiflora_adapters.manifest import ARTIFACT_FILES, CARD_NAME
from multiflora_platform.registry.errors import SourceIncomplete
from multiflora_platform.registry.sources.local import ARCHIVES, require_complete, unpack
from multiflora_platform.web.problems import InvalidRequest, PayloadTooLarge, UnsupportedMedia

RAW_ARCHIVES = {
    "application/zip": ".zip",
    "application/x-zip-compressed": ".zip",
    "application/gzip": ".tar.gz",
    "application/x-gzip": ".tar.gz",
    "application/x-tar": ".tar",
}
_FLUSH_BYTES = 1 << 20
_MAX_PARTS = 64
_MAX_HEADER_BYTES = 16 << 10
_MAX_METADATA_BYTES = 1 << 20


@dataclass
class _File:
    """One file that is being received."""

    name: str  # the base name that the client gave it
    handle: BinaryIO
    hasher: Any = field(default_factory=hashlib.sha256)

    def write(self, data: bytes) -> None:
        self.handle.write(data)
        self.hasher.update(data)


def _write_all(pending: list[tuple[_File, bytes]]) -> None:
    for file, data in pending:
        file.write(data)


class ReceivedUpload:
    """Files of one body, below `folder`. Use `receive`."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._files: dict[str, _File] = {}
        self._pending: list[tuple[_File, bytes]] = []
        self._pending_bytes = 0
        self._metadata = bytearray()

    @property
    def metadata(self) -> bytes | None:
        """The field `metadata`, once all is received; None: there was none."""
        return bytes(self._metadata) or None

    async def receive(self, content_type: str, length: str | None, chunks: AsyncIterator[bytes]) -> str:
        """Fill the folder with the adapter's two files; returns the body's fingerprint (of names and bytes).

        Raises PayloadTooLarge (by Content-Length, before reading), UnsupportedMedia, SourceIncomplete, InvalidRequest.
        """
        if length is not None and length.isdecimal() and int(length[:20]) > self._max_bytes:
            raise self._too_large()
        kind, options = parse_options_header(content_type)
        try:
            if kind == b"multipart/form-data":
                await self._read_multipart(options.get(b"boundary", b""), self._counted(chunks))
            elif kind.decode("latin-1") in RAW_ARCHIVES:
                await self._read_raw("body" + RAW_ARCHIVES[kind.decode("latin-1")], self._counted(chunks))
            else:
                raise UnsupportedMedia(
                    "Send the files or an archive as multipart/form-data, or a source as application/json.",
                    pointer="Content-Type",
                )
            await self._flush()
        finally:
            for file in self._files.values():
                file.handle.close()
        await asyncio.to_thread(self._settle)
        return self._fingerprint()

    async def _counted(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        # Content-Length is the client's claim, and chunked bodies have none: what comes is counted, too.
        total = 0
        async for chunk in chunks:
            total += len(chunk)
            if total > self._max_bytes:
                raise self._too_large()
            yield chunk
            if self._pending_bytes >= _FLUSH_BYTES:
                await self._flush()

    async def _read_raw(self, name: str, chunks: AsyncIterator[bytes]) -> None:
        file = self._open(name)
        assert file is not None, "raw bodies are named by us"
        async for chunk in chunks:
            self._take(file, chunk)

    async def _read_multipart(self, boundary: bytes, chunks: AsyncIterator[bytes]) -> None:
        reader = _MultipartReader(self)
        try:
            parser = MultipartParser(boundary, reader.callbacks())  # type: ignore[arg-type]
            async for chunk in chunks:
                parser.write(chunk)
        except FormParserError as error:
            raise InvalidRequest(f"The multipart body is malformed: {error}") from error
        if not reader.ended:
            raise InvalidRequest("The multipart body ends before its last boundary.")

    def _open(self, filename: str) -> _File | None:
        """The file to fill; None for one that is not kept. Only the name's last part counts."""
        name = re.split(r"[/\\]", filename)[-1]
        suffix = next((suffix for suffix in ARCHIVES if name.lower().endswith(suffix)), None)
        if name not in (*ARTIFACT_FILES, CARD_NAME) and suffix is None:
            return None
        slot = name if suffix is None else "archive" + suffix
        if slot in self._files or (suffix and any(other.startswith("archive") for other in self._files)):
            raise SourceIncomplete(f"{name} comes twice in this upload.")
        self._files[slot] = file = _File(name, (self._folder / slot).open("xb"))
        return file

    def _take(self, file: _File, data: bytes) -> None:
        self._pending.append((file, data))
        self._pending_bytes += len(data)

    async def _flush(self) -> None:
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        if pending:
            await asyncio.to_thread(_write_all, pending)

    def _settle(self) -> None:
        archives = [slot for slot in self._files if slot.startswith("archive")]
        if archives and any(name in self._files for name in ARTIFACT_FILES):
            raise SourceIncomplete("Send either one archive or the two files, not both.")
        for slot in archives:
            archive = self._folder / slot
            # The archive's own README.md counts, not one that was sent beside it.
            (self._folder / CARD_NAME).unlink(missing_ok=True)
            unpack(archive, self._folder, self._max_bytes)
            archive.unlink()
        require_complete(self._folder)

    def _fingerprint(self) -> str:
        # The multipart boundary differs between repetitions of one request, so the body itself cannot be hashed.
        lines = sorted(f"{slot} {file.hasher.hexdigest()}" for slot, file in self._files.items())
        return hashlib.sha256("\n".join(lines).encode() + self._metadata).hexdigest()

    def _take_metadata(self, data: bytes) -> None:
        self._metadata += data
        if len(self._metadata) > _MAX_METADATA_BYTES:
            raise PayloadTooLarge(f"The field `metadata` is larger than {_MAX_METADATA_BYTES} bytes.")

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"The upload is larger than {self._max_bytes} bytes (--max-upload-bytes).")


class _MultipartReader:
    """The parser's callbacks: collects each part's headers, then hands its data to the file that its name means."""

    def __init__(self, upload: ReceivedUpload) -> None:
        self._upload = upload
        self._field = b""
        self._value = b""
        self._disposition = b""
        self._header_bytes = 0
        self._parts = 0
        self._file: _File | None = None
        self._is_metadata = False
        self.ended = False

    def callbacks(self) -> dict[str, Any]:
        names = ("part_begin", "header_field", "header_value", "header_end", "headers_finished", "part_data", "end")
        return {f"on_{name}": getattr(self, f"_{name}") for name in names}

    def _part_begin(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise InvalidRequest(f"The multipart body has more than {_MAX_PARTS} parts.")
        self._disposition = self._field = self._value = b""
        self._header_bytes = 0

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._value += data[start:end]

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > _MAX_HEADER_BYTES:
            raise InvalidRequest(f"A part's header is larger than {_MAX_HEADER_BYTES} bytes.")

    def _header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        filename = options.get(b"filename", b"").decode("utf-8", "replace")
        self._file = self._upload._open(filename) if filename else None
        self._is_metadata = self._file is None and options.get(b"name") == b"metadata"

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._upload._take(self._file, data[start:end])
        elif self._is_metadata:
            self._upload._take_metadata(data[start:end])

    def _end(self) -> None:
        self.ended = True
