"""Unpacking an uploaded adapter: .zip, .tar or .tar.gz. Torch-free.

Every member is looked at before the first byte is unpacked, and only the two files of an adapter and its README.md are
ever written. Knows nothing of what is in those files.
"""

from __future__ import annotations

import errno
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from multiflora_adapters.bounded_reader import BoundedReader, ReadLimitError
from multiflora_adapters.lora_config import CONFIG_NAME, MAX_CONFIG_BYTES
from multiflora_adapters.manifest import ARTIFACT_FILES, CARD_NAME
from multiflora_adapters.report import POINTER, shown
from multiflora_adapters.tensor_file import WEIGHTS_NAME

MAX_MEMBERS = 1000
_MAX_DIRECTORY_BYTES = 1 << 20
_MAX_NAME = 1024
_PIECE_BYTES = 1 << 20
# What the standard library raises for damaged archives: it promises no common class.
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, struct.error, ValueError, NotImplementedError)


class ArchiveError(ValueError):
    """The archive is refused as a whole; the message names the cause."""


@dataclass(frozen=True)
class _Member:
    """One entry of an archive, as its header declares it; nothing of it is trusted yet."""

    name: str  # as stored
    size: int  # bytes when unpacked
    is_folder: bool
    problem: str | None  # why such a member is refused: a link, a device, encrypted, ...


class _Opened(Protocol):
    def members(self) -> list[_Member]: ...

    def open(self, index: int) -> IO[bytes]: ...


def unpack_adapter(archive: Path, destination: Path, max_bytes: int) -> None:
    """Write adapter_config.json, adapter_model.safetensors and a README.md of `archive` to the folder `destination`.

    Other regular files are left out. max_bytes: limit on all members together, unpacked. Raises ArchiveError for
    everything that is unsafe, damaged, too large or missing; then no file is left in `destination`.
    """
    written: list[Path] = []
    try:
        with _open(archive, max_bytes) as opened:
            chosen = _choose(opened.members(), max_bytes)
            for name, (index, size) in chosen.items():
                with opened.open(index) as source, (destination / name).open("xb") as target:
                    written.append(destination / name)
                    _copy(source, target, size)
    except (ArchiveError, ReadLimitError, OSError, *_DAMAGE, RuntimeError) as problem:
        for path in written:
            path.unlink(missing_ok=True)
        if isinstance(problem, ArchiveError):
            raise
        if isinstance(problem, ReadLimitError):
            raise ArchiveError(f"The archive holds more than {max_bytes} bytes, or an oversized header.") from None
        # A place before the file's begin is the archive's fault; all else that the system says is the disk's.
        if isinstance(problem, OSError) and problem.errno not in (None, errno.EINVAL):
            raise
        raise ArchiveError(f"The archive is damaged: {shown(problem)}.") from problem


@contextmanager
def _open(archive: Path, max_bytes: int) -> Iterator[_Opened]:
    with archive.open("rb") as file:
        magic = file.read(len(POINTER))
        file.seek(0)
        if not magic:
            raise ArchiveError("The file is empty. Copy it again.")
        if magic == POINTER:
            raise ArchiveError("The file is a Git LFS pointer, not the archive itself. Run `git lfs pull` beside it.")
        if magic[:2] == b"PK":
            _check_zip_directory(file)
            with zipfile.ZipFile(file) as unzipped:
                yield _Zip(unzipped)
        elif (kind := _unaccepted_kind(magic)) is not None:
            raise ArchiveError(
                f"The file is {kind}; .tar.gz, .tar and .zip archives are accepted. Pack it again as one."
            )
        else:
            # Room for the tar headers and padding themselves, beside the members' bytes.
            limit = max_bytes + MAX_MEMBERS * 4096 + (1 << 20)
            with BoundedReader(file, magic[:2] == b"\x1f\x8b", limit) as reader, _open_tar(reader) as tar:
                yield _Tar(tar)


def _unaccepted_kind(magic: bytes) -> str | None:
    """What a file of another kind is, by its first bytes."""
    kinds = {
        b"BZh": "compressed with bzip2 (.tar.bz2)",
        b"\xfd7zXZ": "compressed with xz (.tar.xz)",
        b"\x28\xb5\x2f\xfd": "compressed with zstd (.tar.zst)",
        b"7z\xbc\xaf": "a 7z archive",
        b"Rar!": "a rar archive",
        b"]\x00\x00": "compressed with lzma (.tar.lzma)",
        b"<": "a web page",
    }
    return next((kind for start, kind in kinds.items() if magic.startswith(start)), None)


def _open_tar(reader: BoundedReader) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=reader, mode="r:", errorlevel=2)
    except tarfile.ReadError:
        raise ArchiveError("The file is no .tar.gz, .tar or .zip archive.") from None


class _Tar:
    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._infos: list[tarfile.TarInfo] = []

    def members(self) -> list[_Member]:
        for info in self._tar:
            self._infos.append(info)
            _check_count(len(self._infos))
        return [_Member(i.name, i.size, i.isdir(), self._problem(i)) for i in self._infos]

    def open(self, index: int) -> IO[bytes]:
        file = self._tar.extractfile(self._infos[index])
        assert file is not None, "only regular members are opened"
        return file

    @staticmethod
    def _problem(info: tarfile.TarInfo) -> str | None:
        if info.islnk() or info.issym():
            return "is a link"
        if info.issparse() or not (info.isreg() or info.isdir()):
            return "is no regular file"
        return None


class _Zip:
    def __init__(self, unzipped: zipfile.ZipFile) -> None:
        self._zip = unzipped

    def members(self) -> list[_Member]:
        _check_count(len(self._zip.infolist()))
        # Not ZipInfo.is_dir: it fails for a member without a name.
        return [
            _Member(i.orig_filename, i.file_size, i.orig_filename.endswith("/"), self._problem(i))
            for i in self._zip.infolist()
        ]

    def open(self, index: int) -> IO[bytes]:
        return self._zip.open(self._zip.infolist()[index])

    @staticmethod
    def _problem(info: zipfile.ZipInfo) -> str | None:
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind == stat.S_IFLNK:
            return "is a link"
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            return "is no regular file"
        if info.flag_bits & 1:
            return "is encrypted"
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            return "is compressed by an unusual method"
        return None


def _check_zip_directory(file: IO[bytes]) -> None:
    """Look at the directory's size before zipfile reads all of it into memory."""
    # The end record (22 bytes) may be followed by a comment of 65,535 bytes; a Zip64 locator (20) lies before it.
    file.seek(0, 2)
    size = file.tell()
    tail_size = min(size, 65557 + 20)
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    file.seek(0)
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) - end < 22:
        raise ArchiveError("The archive is damaged: it has no zip directory (truncated?).")
    entries, directory_bytes = struct.unpack_from("<HL", tail, end + 10)
    if tail[max(end - 20, 0) : end].startswith(b"PK\x06\x07"):
        raise ArchiveError("Zip64 archives are not accepted; use .tar.gz.")
    _check_count(entries)
    if directory_bytes > _MAX_DIRECTORY_BYTES:
        raise ArchiveError("The archive's directory is far too large.")


def _check_count(members: int) -> None:
    if members > MAX_MEMBERS:
        raise ArchiveError(f"The archive has more than {MAX_MEMBERS} members.")


def _choose(members: list[_Member], max_bytes: int) -> dict[str, tuple[int, int]]:
    """File name -> (index, size) of the files to write, after all members were found harmless."""
    paths = [_safe_path(member) for member in members]
    _refuse_duplicates(paths)
    if sum(member.size for member in members) > max_bytes:
        raise ArchiveError(f"The archive holds more than {max_bytes} bytes.")
    files = {path: (i, members[i].size) for i, path in enumerate(paths) if not members[i].is_folder}
    folder = _adapter_folder(files)
    missing = [name for name in ARTIFACT_FILES if folder / name not in files]
    if missing:
        raise ArchiveError(f"The archive lacks {' and '.join(missing)}{_pickle_note(files, folder)}.")
    if files[folder / CONFIG_NAME][1] > MAX_CONFIG_BYTES:
        raise ArchiveError(f"{CONFIG_NAME} is larger than {MAX_CONFIG_BYTES} bytes.")
    return {name: files[folder / name] for name in (*ARTIFACT_FILES, CARD_NAME) if folder / name in files}


def _safe_path(member: _Member) -> PurePosixPath:
    name = member.name
    if not name.isprintable() or "\\" in name or len(name) > _MAX_NAME:
        raise ArchiveError(f"The archive has a member with an unsafe name: {shown(name)}.")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or ":" in name.partition("/")[0]:
        raise ArchiveError(f"The archive has a path that leads out of it: {shown(name)}.")
    if member.problem is not None:
        raise ArchiveError(f"The archive's member {shown(name)} {member.problem}.")
    if member.size < 0:
        raise ArchiveError(f"The archive's member {shown(name)} has a negative size.")
    return path


def _refuse_duplicates(paths: Iterable[PurePosixPath]) -> None:
    seen: set[str] = set()
    for path in paths:
        # File systems that fold case or Unicode forms make one file of two: the disk must not choose which one counts.
        key = unicodedata.normalize("NFKC", str(path)).casefold()
        if key in seen:
            raise ArchiveError(f"The archive has two members of the same name: {shown(path)}.")
        seen.add(key)


def _adapter_folder(files: Iterable[PurePosixPath]) -> PurePosixPath:
    """Where the adapter's files lie: at the top, or in the one folder there."""
    folders = {path.parent for path in files if path.name in ARTIFACT_FILES and len(path.parts) <= 2}
    top = PurePosixPath()
    if len(folders) > 1 and top not in folders:
        raise ArchiveError("The archive holds more than one adapter; send one archive for each.")
    return top if top in folders or not folders else folders.pop()


def _pickle_note(files: Iterable[PurePosixPath], folder: PurePosixPath) -> str:
    if folder / "adapter_model.bin" in files:
        return f" (adapter_model.bin is a pickle and never opened; save as {WEIGHTS_NAME})"
    return " at its top or in its one folder"


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    # The declared sizes have been summed against the limit; a member that unpacks to more stops at the first surplus.
    left = size
    while left >= 0 and (piece := source.read(_PIECE_BYTES)):
        left -= len(piece)
        target.write(piece)
    if left:
        raise ArchiveError("The archive is damaged: a member has another size than declared.")
