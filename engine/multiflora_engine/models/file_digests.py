"""SHA-256 of large files, in parallel, each computed once as long as path, size and modification time stay. Torch-free.

The cache is a convenience: without a writable cache folder everything is only slower.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import msgspec

from multiflora_engine.models.errors import ModelError

_WORKERS = 4
_PIECE = 4 << 20
_MAX_REMEMBERED = 4096


def combined_digest(files: Sequence[Path]) -> str:
    """SHA-256 hex over the files' names and digests, whatever folder they lie in. Raises ModelError."""
    lines = sorted(f"{path.name} {digest}\n" for path, digest in zip(files, file_digests(files), strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def file_digests(files: Sequence[Path]) -> list[str]:
    """SHA-256 hex of each file. Raises ModelError when one cannot be read."""
    remembered = _read_cache()
    try:
        keys = [_key(path) for path in files]
        unknown = [(key, path) for key, path in zip(keys, files, strict=True) if key not in remembered]
        computed = dict(zip((key for key, _ in unknown), _hash_all([path for _, path in unknown]), strict=True))
    except OSError as error:
        raise ModelError(f"{error.filename} cannot be read: {error.strerror}. Check its permissions.") from error
    if computed:
        _write_cache(computed)
    return [computed.get(key) or remembered[key] for key in keys]


def _key(path: Path) -> str:
    resolved = path.resolve()
    status = resolved.stat()
    return f"{resolved}|{status.st_size}|{status.st_mtime_ns}|{status.st_ino}"


def _hash_all(paths: Sequence[Path]) -> list[str]:
    """Stops at once where a signal ends the process: a server must not have to read a model before it may end."""
    is_over = Event()
    with ThreadPoolExecutor(_WORKERS) as pool:
        try:
            return list(pool.map(lambda path: _hash(path, is_over), paths))
        finally:
            is_over.set()


def _hash(path: Path, is_over: Event) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while not is_over.is_set() and (piece := file.read(_PIECE)):
            digest.update(piece)
    return digest.hexdigest()


def cache_root() -> Path:
    """Where what can be made again is kept. Raises RuntimeError where the process has no home."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "multiflora"


def _cache_path() -> Path:
    return cache_root() / "file_digests.json"


def _read_cache() -> dict[str, str]:
    try:
        return msgspec.json.decode(_cache_path().read_bytes(), type=dict[str, str])
    except (OSError, RuntimeError, msgspec.MsgspecError):
        return {}


def _write_cache(computed: dict[str, str]) -> None:
    """Adds to what other processes wrote meanwhile; a lost race costs one more hashing."""
    merged = list({**_read_cache(), **computed}.items())[-_MAX_REMEMBERED:]
    try:
        path = _cache_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(dict(merged)))
        os.replace(temporary, path)
    except (OSError, RuntimeError):
        return
