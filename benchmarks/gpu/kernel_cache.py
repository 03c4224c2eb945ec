"""Triton's cache of compiled kernels on its way from one machine to another. Knows no kernel.

Its entries are named after what was compiled and by which Triton, so a cache of another version is of no use, and does
no harm. Only the lists of an entry's files tell where they lie; those are written anew where they arrive.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

PACKED = Path(".gpu-packages/triton-cache")
"""Where a cache that was filled elsewhere is looked for, below the repository."""

_LIST = "__grp__"


def own_cache() -> Path:
    """The one that Triton uses in this process and its children."""
    return Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache")


def entries(cache: Path) -> int:
    """How many kernels and launchers are in it."""
    return len(list(cache.iterdir())) if cache.is_dir() else 0


def settle(packed: Path, cache: Path) -> int:
    """Copies the entries that the cache lacks: how many."""
    if not packed.is_dir():
        return 0
    new = [entry for entry in packed.iterdir() if entry.is_dir() and not (cache / entry.name).exists()]
    for entry in new:
        there = cache / entry.name
        shutil.copytree(entry, there)
        for listed in there.glob(f"{_LIST}*"):
            files = json.loads(listed.read_text(encoding="utf-8"))["child_paths"]
            listed.write_text(json.dumps({"child_paths": {name: str(there / name) for name in files}}))
    return len(new)
