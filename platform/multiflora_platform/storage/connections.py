"""How connections to SQLite and PostgreSQL are made, how long they wait, and what their outages are called.

Knows URLs, drivers and their errors; knows no tables.
"""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any
from weakref import WeakSet

import msgspec
from sqlalchemy import event, make_url
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from multiflora_platform.storage import sqlite_driver
from multiflora_platform.web.problems import DatabaseUnusable, InsufficientStorage, Unavailable

BUSY_SECONDS = 5
_DISK_FULL = "53100"


def patience() -> float:
    """Seconds that one statement waits for a lock before the change is answered with 503."""
    return BUSY_SECONDS


def private_folder(path: Path) -> Path:
    """Make the folder (0700), and close it to others if it was there."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def sqlite_file(database_url: str | URL) -> Path | None:
    """None: the database is no file. Raises DatabaseUnusable."""
    url = _address(database_url)
    is_file = url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:"
    return Path(url.database) if is_file and url.database else None


def private_database(url: URL) -> None:
    """Create SQLite's file as 0600 before SQLite does; its journal files take the same mode."""
    path = sqlite_file(url)
    if path is None:
        return
    if not path.parent.exists():
        private_folder(path.parent)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    path.chmod(0o600)


def sqlite_pragmas(connection: Any) -> None:
    """Durable and concurrent: WAL, a real fsync at each commit, foreign keys, and our own BEGIN."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (f"busy_timeout = {BUSY_SECONDS * 1000}", "journal_mode = WAL", "synchronous = FULL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def with_driver(database_url: str) -> URL:
    """PostgreSQL's URL with the driver that we bring; SQLite's as it is. Raises DatabaseUnusable."""
    url = _address(database_url)
    return url.set(drivername="postgresql+psycopg") if url.get_backend_name() == "postgresql" else url


def _address(database_url: str | URL) -> URL:
    try:
        return make_url(database_url)
    except (ArgumentError, ValueError) as error:  # the latter for a port that is no number
        raise DatabaseUnusable(
            "The database in --database-url cannot be used: this is no address such as postgresql://user@host/name."
        ) from error


def postgres_arguments() -> dict[str, Any]:
    """A server that does not answer, and a lock that is not given, are errors after a while, not a hang."""
    return {
        "connect_timeout": max(2, math.ceil(BUSY_SECONDS)),
        "options": f"-c lock_timeout={max(1, int(BUSY_SECONDS * 1000))}",
    }


def open_engine(database_url: str) -> AsyncEngine:
    url = with_driver(database_url)
    if url.get_backend_name() != "sqlite":
        # Pinged before use: after a restart of the server, old connections are replaced, not handed out.
        return create_async_engine(
            url,
            pool_pre_ping=True,
            pool_timeout=BUSY_SECONDS,
            connect_args=postgres_arguments(),
            max_overflow=15,
            json_serializer=_to_json,
            json_deserializer=msgspec.json.decode,
        )
    private_database(url)
    engine = create_async_engine(
        url.set(drivername="sqlite+aiosqlite"),
        connect_args={"async_creator_fn": sqlite_driver.connect},
        json_serializer=_to_json,
        json_deserializer=msgspec.json.decode,
    )
    event.listen(engine.sync_engine, "connect", lambda connection, _: sqlite_pragmas(connection))
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def driver_threads(engine: AsyncEngine) -> Collection[Thread]:
    """The living threads of SQLite's driver, one a connection made from now on; PostgreSQL's driver has none.

    A reader that is cancelled again while its query is being cleared away leaves the pool a connection that was
    told to stop, but whose thread still has an answer for the event loop.
    """
    threads: WeakSet[Thread] = WeakSet()

    def remember(connection: Any, _: object) -> None:
        thread = getattr(connection.driver_connection, "_thread", None)
        if thread is not None:
            threads.add(thread)

    event.listen(engine.sync_engine, "connect", remember)
    return threads


def _to_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def sessions(engine: AsyncEngine) -> tuple[AsyncEngine, AsyncEngine]:
    """(reader, writer): a reader sees one moment; a writer sees, once it has the lock, all that was committed."""
    if engine.dialect.name == "postgresql":
        return engine.execution_options(isolation_level="REPEATABLE READ"), engine
    return engine, engine.execution_options(write=True)


def _begin(connection: Connection) -> None:
    mode = "IMMEDIATE" if connection.get_execution_options().get("write") else "DEFERRED"
    connection.exec_driver_sql(f"BEGIN {mode}")


@contextmanager
def outages_explained() -> Iterator[None]:
    """Raises Unavailable (503) for a database that is away or locked, InsufficientStorage (507) for a full disk."""
    try:
        yield
    except NoConnection as error:
        raise Unavailable("All connections to the database are in use; try again.") from error
    except DBAPIError as error:
        explained = _explained(error)
        if explained is None:
            raise
        raise explained from error


def _explained(error: DBAPIError) -> Exception | None:
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        explained = _SQLITE.get(code & 0xFF)
        return None if explained is None else explained()
    if getattr(error.orig, "sqlstate", None) == _DISK_FULL:
        return _full()
    if isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated:
        return Unavailable("The database does not answer; try again.")
    return None


def _full() -> Exception:
    return InsufficientStorage("The disk that holds the database is full; free some space and try again.")


def _locked() -> Exception:
    return Unavailable("The database is locked by another process; try again.")


def _unreadable() -> Exception:
    return Unavailable("The database's file cannot be used now; try again.")


_SQLITE: dict[int, Callable[[], Exception]] = {
    sqlite3.SQLITE_BUSY: _locked,
    sqlite3.SQLITE_LOCKED: _locked,
    sqlite3.SQLITE_FULL: _full,
    sqlite3.SQLITE_CANTOPEN: _unreadable,
    sqlite3.SQLITE_IOERR: _unreadable,
}
