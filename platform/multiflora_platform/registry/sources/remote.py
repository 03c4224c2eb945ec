"""Fetching an adapter's files over the network, file by file, going on where an earlier attempt stopped.

Knows sizes and offsets; the services themselves are hub.py's and s3.py's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from multiflora_adapters.manifest import ARTIFACT_FILES, CARD_NAME
from multiflora_platform.registry.errors import SourceIncomplete, SourceUnreachable
from multiflora_platform.registry.sources.local import ARCHIVES, require_complete, unpack
from multiflora_platform.web.problems import PayloadTooLarge

_PART = ".part"

# advance(done, total): bytes fetched so far of the source's total; raises when the job was stopped.
Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class Pinned:
    """What an address means at this moment, for ever; `RemoteSource.pin` fills it."""

    source: str  # the address with its revision, as the version's row records it
    files: Mapping[str, int]  # sizes in bytes by path


class RemoteSource(Protocol):
    """One address of one service. Raises SourceNotFound, SourceRefused (no retry mends) or SourceUnreachable."""

    def pin(self) -> Pinned: ...

    def read(self, pinned: Pinned, path: str, offset: int) -> Iterator[bytes]:
        """The file's bytes from `offset` on, in pieces."""
        ...


def fetch(remote: RemoteSource, folder: Path, max_bytes: int, advance: Advance) -> str:
    """Both files and a README.md, or an archive, into `folder`; returns the pinned source.

    A part that is there from an earlier attempt is kept as long as the address still means the same.
    """
    pinned, wanted = require_adapter(remote, max_bytes)
    total = sum(wanted.values())
    _forget_another_pin(folder, pinned)
    before = 0
    for path, size in wanted.items():
        target = folder / _local_name(path)
        if not target.exists():
            _fetch_file(remote, pinned, path, target, size, _shifted(advance, before, total))
        before += size
        advance(before, total)
    for archive in [path for path in folder.iterdir() if path.name.endswith(ARCHIVES)]:
        unpack(archive, folder, max_bytes)
        archive.unlink()
    require_complete(folder)
    return pinned.source


def require_adapter(remote: RemoteSource, max_bytes: int) -> tuple[Pinned, dict[str, int]]:
    """What the address means now, and the sizes of the files that an import takes of it.

    Raises what pin raises, SourceIncomplete, PayloadTooLarge.
    """
    pinned = remote.pin()
    wanted = _wanted(pinned)
    total = sum(wanted.values())
    if total > max_bytes:
        raise PayloadTooLarge(f"{pinned.source} has {total} bytes; the limit is {max_bytes} (--max-upload-bytes).")
    return pinned, wanted


def _shifted(advance: Advance, before: int, total: int) -> Callable[[int], None]:
    """One file's progress as the whole source's."""
    return lambda done: advance(before + done, total)


def _wanted(pinned: Pinned) -> dict[str, int]:
    """An adapter's files by their last name part, or the one archive. Raises SourceIncomplete."""
    archives = {path: size for path, size in pinned.files.items() if path.endswith(ARCHIVES)}
    files = {path: size for path, size in pinned.files.items() if _last(path) in (*ARTIFACT_FILES, CARD_NAME)}
    missing = set(ARTIFACT_FILES) - {_last(path) for path in files}
    if not missing:
        return files
    if len(archives) == 1:
        return archives
    raise SourceIncomplete(f"{pinned.source} has no {' and no '.join(sorted(missing))}.", pointer="/source")


def _fetch_file(
    remote: RemoteSource, pinned: Pinned, path: str, target: Path, size: int, advance: Callable[[int], None]
) -> None:
    part = target.with_name(target.name + _PART)
    with part.open("ab") as writer:
        if writer.tell() > size:
            writer.truncate(0)
        done = writer.tell()
        if done < size:
            for piece in remote.read(pinned, path, done):
                done += len(piece)
                if done > size:
                    raise SourceUnreachable(f"{path} of {pinned.source} is longer than was announced.")
                writer.write(piece)
                advance(done)
        writer.flush()
        os.fsync(writer.fileno())
    if done != size:
        raise SourceUnreachable(f"{path} of {pinned.source} ended after {done} of {size} bytes.")
    part.rename(target)


def _forget_another_pin(folder: Path, pinned: Pinned) -> None:
    """A branch that moved between two attempts must not be mixed with what it was."""
    mark = folder / ".pin"
    if not mark.exists() or mark.read_text() != pinned.source:
        for file in folder.iterdir():
            file.unlink()
        mark.write_text(pinned.source)


def _local_name(path: str) -> str:
    suffix = next((suffix for suffix in ARCHIVES if path.endswith(suffix)), None)
    return f"archive{suffix}" if suffix else _last(path)


def _last(path: str) -> str:
    return path.rpartition("/")[2]
