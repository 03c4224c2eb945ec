"""Watches every transaction of a test: what changes data leaves its event and its audit row before it is committed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event, inspect
from sqlalchemy.orm import Session

# What nobody did: counters, caches, leases and progress, the log of attempts, and the outbox itself.
EXEMPT_TABLES = {"events", "audit", "usage", "idempotency", "webhook_deliveries", "jobs"}
EXEMPT_COLUMNS = {"keys": {"last_used_at"}, "webhooks": {"cursor"}, "adapters": {"seed"}}


@contextmanager
def watched() -> Iterator[list[str]]:
    """The list grows by a line for each transaction that changed something silently."""
    silent: list[str] = []

    def flushed(session: Session, _: Any) -> None:
        seen = session.info.setdefault("changed", set())
        for row in (*session.new, *session.dirty, *session.deleted):
            table = row.__tablename__
            columns = {attribute.key for attribute in inspect(row).attrs if attribute.history.has_changes()}
            if table in ("events", "audit") or columns - EXEMPT_COLUMNS.get(table, set()) or row in session.deleted:
                seen.add(table)

    def executed(state: Any) -> None:
        if state.is_insert or state.is_update or state.is_delete:
            state.session.info.setdefault("changed", set()).add(state.bind_mapper.local_table.name)

    def committed(session: Session) -> None:
        session.flush()  # before_commit comes before the last flush
        seen = session.info.pop("changed", set())
        if seen - EXEMPT_TABLES and not {"events", "audit"} <= seen:
            silent.append(f"changed {sorted(seen)} without an event and an audit row")

    listeners: dict[str, Any] = {"after_flush": flushed, "do_orm_execute": executed, "before_commit": committed}
    for name, listener in listeners.items():
        event.listen(Session, name, listener)
    try:
        yield silent
    finally:
        for name, listener in listeners.items():
            event.remove(Session, name, listener)
