"""An adapter's files from this machine's disk, copied into a folder.

Owns the rule that a server reads only below its --allow-source-root folders, links resolved.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from multiflora_adapters.archive import ArchiveError, unpack_adapter
from multiflora_adapters.manifest import ARTIFACT_FILES, CARD_NAME
from multiflora_platform.registry.errors import SourceIncomplete, SourceNotFound, SourceRefused
from multiflora_platform.web.problems import PayloadTooLarge

# Of these `unpack` says what they are, and what it takes.
_OTHERS = (".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tar.zst", ".tar.lzma", ".7z", ".rar")
ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip", *_OTHERS)


@dataclass(frozen=True)
class LocalSource:
    """roots: folders below which may be read; None: anywhere."""

    roots: Sequence[Path] | None
    max_bytes: int

    def copy(self, path: Path, folder: Path) -> str:
        """path: an adapter's folder or an archive of one; returns it as a source. Blocks: call in a thread."""
        path = path.absolute()
        real = self._allowed(path)
        if real.is_file() and real.name.endswith(ARCHIVES):
            unpack(real, folder, self.max_bytes)
        elif real.is_dir():
            left = self.max_bytes
            for name in (*ARTIFACT_FILES, CARD_NAME):
                if (real / name).exists():
                    left -= _copy_file(self._allowed(real / name), folder / name, left)
        else:
            raise SourceNotFound(f"{path} is not an adapter's folder or archive on this server.", pointer="/source")
        require_complete(folder)
        return f"file://{path}"

    def _allowed(self, path: Path) -> Path:
        try:
            real = path.resolve()
        except (OSError, RuntimeError, ValueError):
            raise SourceNotFound(f"{str(path)[:200]!r} cannot be resolved.", pointer="/source") from None
        if self.roots is None or any(real.is_relative_to(root.resolve()) for root in self.roots):
            return real
        raise SourceRefused(
            f"{path} is not below a folder this server may read; start it with --allow-source-root DIR.",
            pointer="/source",
        )


def unpack(archive: Path, folder: Path, max_bytes: int) -> None:
    """Raises SourceIncomplete, saying why the archive was refused."""
    try:
        unpack_adapter(archive, folder, max_bytes)
    except ArchiveError as error:
        raise SourceIncomplete(f"The archive was refused: {error}") from error


def require_complete(folder: Path) -> None:
    missing = [name for name in ARTIFACT_FILES if not (folder / name).is_file()]
    if missing:
        raise SourceIncomplete(
            f"{' and '.join(missing)} missing: an adapter is {' and '.join(ARTIFACT_FILES)}; pickles are refused."
        )


def _copy_file(source: Path, target: Path, limit: int) -> int:
    """Regular files only, at most `limit` bytes; O_NONBLOCK so that a named pipe cannot hang the server."""
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise SourceIncomplete(f"{source.name} cannot be read by this server: {error.strerror}.") from error
    with open(descriptor, "rb") as reader, target.open("xb") as writer:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SourceIncomplete(f"{source.name} is not a regular file.")
        if status.st_size > limit:
            raise PayloadTooLarge(f"{source.name} has {status.st_size} bytes; {limit} are left of the upload limit.")
        shutil.copyfileobj(reader, writer, 1 << 20)
        return writer.tell()
