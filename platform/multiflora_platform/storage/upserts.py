"""Rows that are made or, where they exist, merged with what they hold: in one statement, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import case
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from multiflora_platform.storage.tables import Base

Merge = Callable[[Any, Any], Any]


async def upsert(
    session: AsyncSession, row: type[Base], key: Mapping[str, Any], values: Mapping[str, int], merge: Merge
) -> None:
    """key: the columns of the primary key. merge: `added`, `largest` or `latest`, of each of the other columns."""
    insert: Any = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    statement = insert(row).values(**key, **values)
    merged = {name: merge(getattr(row, name), getattr(statement.excluded, name)) for name in values}
    await session.execute(statement.on_conflict_do_update(index_elements=list(key), set_=merged))


def added(old: Any, new: Any) -> Any:
    return old + new


def largest(old: Any, new: Any) -> Any:
    return case((new > old, new), else_=old)


def latest(old: Any, new: Any) -> Any:
    return new
