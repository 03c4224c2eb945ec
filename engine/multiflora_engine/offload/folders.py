"""Which folder below --kv-offload-dir is this engine's: one for each identity of the content, and in it one for each
engine that runs at the same time. What no engine uses makes room.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from multiflora_engine.models.errors import ModelError

OWN_FOLDER = "multiflora-kv"
_LOCK_NAME = "lock"
_IDENTITY_NAME = "identity.json"
_PRIVATE = 0o700
_MOST_ENGINES = 256
# Of what all of --kv-offload-dir may take, what no engine uses leaves at least this part to this engine's copies.
_OWN_PART = 0.5
_SECTOR = 512


class OffloadFolderUnusable(ModelError):
    """The operator's folder cannot hold copies; the message says why and what to do."""


@dataclass(frozen=True)
class OffloadFolder:
    """path: is this process's until it ends. num_bytes: what its files may take."""

    path: Path
    num_bytes: int
    _lock: int

    def close(self) -> None:
        os.close(self._lock)


def open_folder(parent: Path, identity: Mapping[str, object], num_bytes: int) -> OffloadFolder:
    """The first folder of this identity that no other engine has. num_bytes: what the copies of this engine may take
    together with what others' folders take now. Engines that run do not make room, and may write more later.

    Raises OffloadFolderUnusable.
    """
    name = blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=16).hexdigest()
    root = parent / OWN_FOLDER
    try:
        parent.mkdir(_PRIVATE, parents=True, exist_ok=True)
        _make_private(root)
        # One engine after the other: what one makes, another must not take away as unused.
        with _locking(root):
            _make_private(root / name)
            (root / name / _IDENTITY_NAME).write_text(json.dumps(identity, indent=1, sort_keys=True))
            for number in range(_MOST_ENGINES):
                path = root / name / str(number)
                _make_private(path)
                lock = _locked(path)
                if lock is not None:
                    return OffloadFolder(path, num_bytes - _make_room(root, path, num_bytes), lock)
    except OSError as error:
        raise OffloadFolderUnusable(
            f"--kv-offload-dir {parent} cannot be used: {error.strerror or error}. "
            "Give a folder that the server's user owns and can write."
        ) from error
    raise OffloadFolderUnusable(f"--kv-offload-dir {parent} is used by {_MOST_ENGINES} engines; give another folder.")


def _make_private(path: Path) -> None:
    """What prompts left behind is for the server's user alone. Raises OSError where it is another's, or a link."""
    path.mkdir(_PRIVATE, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(f"{path} is not a folder of the server's user")
    path.chmod(_PRIVATE)


@contextmanager
def _locking(path: Path) -> Iterator[None]:
    lock = _open_lock(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _locked(path: Path) -> int | None:
    """The lock's file; the system gives it back when the process ends, however it ends. None: another has it."""
    lock = _open_lock(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _open_lock(path: Path) -> int:
    return os.open(path / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _make_room(root: Path, own: Path, num_bytes: int) -> int:
    """Bytes that others' folders take. What no engine uses goes, the longest unused first, as far as it must."""
    others = sorted((path for path in _folders(root) if path != own), key=_last_use)
    taken = {path: _bytes_in(path) for path in others}
    for path in others:
        if sum(taken.values()) <= num_bytes * (1 - _OWN_PART):
            break
        lock = _locked(path)
        if lock is not None:
            _remove(path)
            os.close(lock)
            taken[path] = 0
    return sum(taken.values())


def _folders(root: Path) -> list[Path]:
    """All that `open_folder` has made, by what it names them."""
    identities = [path for path in root.iterdir() if re.fullmatch("[0-9a-f]{32}", path.name)]
    return [path for identity in identities for path in identity.iterdir() if path.name.isdecimal()]


def _remove(path: Path) -> None:
    """The folder with its files, and what held it if that is empty then."""
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
    if [file.name for file in path.parent.iterdir()] == [_IDENTITY_NAME]:
        (path.parent / _IDENTITY_NAME).unlink()
        path.parent.rmdir()


def _last_use(path: Path) -> float:
    return max((file.stat().st_mtime for file in path.iterdir()), default=0.0)


def _bytes_in(path: Path) -> int:
    """On the medium: files may have holes."""
    return sum(file.stat().st_blocks * _SECTOR for file in path.iterdir())
