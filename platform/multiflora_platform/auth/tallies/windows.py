"""Windows over which tenants' days are told: so many days of UTC, of which the last one is today."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

Window = Literal["day", "week", "month"]
_DAYS: dict[Window, int] = {"day": 1, "week": 7, "month": 30}


def day_of(at: float) -> str:
    """at: Unix seconds. As 2026-01-31."""
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def first_day(window: Window, now: float) -> str:
    return (datetime.fromtimestamp(now, UTC).date() - timedelta(days=_DAYS[window] - 1)).isoformat()


def start_of(day: str) -> int:
    """Unix seconds."""
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())
