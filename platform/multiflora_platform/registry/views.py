"""What the registry's routes answer, as types."""

from __future__ import annotations

from typing import Any

import msgspec


class AliasMoveView(msgspec.Struct, frozen=True, kw_only=True):
    """target: {"version": 3} or {"split": {"3": 90, "4": 10}}; null when the alias was deleted."""

    id: int
    target: dict[str, Any] | None
    actor: str
    at: str


class AliasHistory(msgspec.Struct, frozen=True, kw_only=True):
    items: list[AliasMoveView]
    next_page_token: str | None
