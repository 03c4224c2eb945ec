"""SHA-256 of large files, in parallel, each computed once as long as path, size and modification time stay. Torch-free.

The cache is a convenience: without a writable cache folder everything is only slower.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from multiflora_engine.models.errors import ModelError
from multiflora_kernels.runtime.machine_cache import remember, remembered

_WORKERS = 4
_PIECE = 4 << 20
_TABLE = "file_digests"


def combined_digest(files: Sequence[Path]) -> str:
    """SHA-256 hex over the files' names and digests, whatever folder they lie in. Raises ModelError."""
    lines = sorted(f"{path.name} {digest}\n" for path, digest in zip(files, file_digests(files), strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def file_digests(files: Sequence[Path]) -> list[str]:
    """SHA-256 hex of each file. Raises ModelError when one cannot be read."""
    known = remembered(_TABLE)
    try:
        keys = [_key(path) for path in files]
        unknown = [(key, path) for key, path in zip(keys, files, strict=True) if key not in known]
        computed = dict(zip((key for key, _ in unknown), _hash_all([path for _, path in unknown]), strict=True))
    except OSError as error:
        raise ModelError(f"{error.filename} cannot be read: {error.strerror}. Check its permissions.") from error
    if computed:
        remember(_TABLE, computed)
    return [str(computed.get(key) or known[key]) for key in keys]


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
