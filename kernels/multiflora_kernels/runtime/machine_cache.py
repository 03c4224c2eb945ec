"""Small tables that outlive a process, in the user's cache folder: what can be found out again, but not for nothing.

Torch-free. A convenience: without a folder that can be written everything is only slower.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_MAX_REMEMBERED = 4096


def cache_root() -> Path:
    """Where what can be made again is kept. Raises RuntimeError where the process has no home."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "multiflora"


def remembered(name: str) -> dict[str, Any]:
    """The table of this name; empty where there is none that can be read."""
    try:
        table = json.loads(_path(name).read_bytes())
    except (OSError, RuntimeError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


def remember(name: str, entries: Mapping[str, object]) -> None:
    """Adds to what other processes wrote meanwhile; a lost race costs finding it out once more."""
    merged = list({**remembered(name), **entries}.items())[-_MAX_REMEMBERED:]
    try:
        path = _path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(dict(merged), file)
        os.replace(temporary, path)
    except (OSError, RuntimeError):
        return


def _path(name: str) -> Path:
    return cache_root() / f"{name}.json"
