"""A version's files as one tar archive, which an upload takes as it is. Knows neither versions nor HTTP."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

_CHUNK = 1 << 20


def archive(folder: Path, card: str | None) -> Iterator[bytes]:
    """The folder's files byte for byte, and the model card as README.md. They are open from the call on: what is
    removed meanwhile is read to its end. Raises FileNotFoundError."""
    files: list[tuple[str, int, BinaryIO]] = []
    with ExitStack() as opened:
        for path in sorted(folder.iterdir()):
            file = opened.enter_context(path.open("rb"))
            files.append((path.name, path.stat().st_size, file))
        if card is not None:
            text = card.encode()
            files.append(("README.md", len(text), BytesIO(text)))
        return _parts(opened.pop_all(), files)


def _parts(opened: ExitStack, files: list[tuple[str, int, BinaryIO]]) -> Iterator[bytes]:
    with opened:
        for name, size, file in files:
            head = tarfile.TarInfo(name)
            head.size = size
            yield head.tobuf()
            while chunk := file.read(_CHUNK):
                yield chunk
            yield bytes(-size % tarfile.BLOCKSIZE)
        yield bytes(2 * tarfile.BLOCKSIZE)
