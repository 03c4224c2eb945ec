"""One value as people read it: no JSON, digests by their beginning, moments to the second. Knows no tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

_DIGEST = re.compile(r"[0-9a-f]{64}")
_DIGEST_SHOWN = 12
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(?:\+00:00|Z)")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_WHOLE_FROM = 1000


def cell(name: str, value: Any) -> str:
    """One line. name: of the field; those that end in `bytes` are sizes."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return size(value) if name.endswith("bytes") else _number(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_inner(key, part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_inner(name, part) for part in value)
    return _text(str(value))


def line(name: str, value: Any) -> str:
    """A cell that has a line of its own, where a digest is shown whole, to be copied."""
    return value if isinstance(value, str) and _DIGEST.fullmatch(value) else cell(name, value)


def moment(unix_seconds: float) -> str:
    """As the server writes moments: ISO 8601, of UTC."""
    return datetime.fromtimestamp(unix_seconds, UTC).isoformat(timespec="seconds")


def target(pointed: Mapping[str, Any]) -> str:
    """Of an alias: `3`, or `3: 90%, 4: 10%`."""
    if "split" not in pointed:
        return str(pointed["version"])
    return ", ".join(f"{version}: {share}%" for version, share in pointed["split"].items())


def short(shown: str, now: datetime) -> str:
    """Of a moment, as a cell shows it, what a terminal has room for; other texts as they are."""
    if not _MOMENT.fullmatch(shown):
        return shown
    if shown[:10] == now.date().isoformat():
        return shown[11:]
    return f"{shown[5:16].replace('T', ' ')}Z" if shown[:4] == f"{now.year}" else shown[:10]


def size(count: float) -> str:
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:.3g} {_UNITS[unit]}" if count < _WHOLE_FROM else f"{count:.0f} {_UNITS[unit]}"


def _inner(name: str, value: Any) -> str:
    shown = cell(name, value)
    is_inner = isinstance(value, Mapping) or (isinstance(value, list) and len(value) > 1)
    return f"({shown})" if is_inner else shown


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return f"{value:.0f}" if abs(value) >= _WHOLE_FROM else f"{value:.4g}"


def _text(text: str) -> str:
    """Texts of clients may hold what a terminal would obey."""
    if _DIGEST.fullmatch(text):
        return text[:_DIGEST_SHOWN]
    if found := _MOMENT.fullmatch(text):
        return f"{found[1]}Z"
    return "".join(letter if letter.isprintable() else " " for letter in text)
