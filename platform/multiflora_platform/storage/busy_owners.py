"""Whose work has its part of all places already: what holds up one owner's leaves room for that of others."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, func, select


def has_places_left(owner: Any, held: Select[str | None], most: int) -> ColumnElement[bool]:
    """owner: a column. held: selects the owner of each row that a worker holds. most: of one owner at once."""
    (held_owner,) = held.subquery().c
    busy = select(_named(held_owner)).group_by(held_owner).having(func.count() >= most)
    has_left: ColumnElement[bool] = _named(owner).not_in(busy)
    return has_left


def _named(owner: Any) -> Any:
    """The administration's has no name, which in a list would hide whether others are in it."""
    return func.coalesce(owner, "")
