"""Brings a database to this release's schema with the scripts in migrations/. Does not know the models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import create_engine, event, make_url, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

import multiflora_platform
from multiflora_platform.storage.connections import (
    postgres_arguments,
    private_database,
    sqlite_pragmas,
    with_driver,
)
from multiflora_platform.web.problems import DatabaseOutdated, DatabaseUnusable

_UPGRADE_LOCK = 0x6D666C75


def scripts() -> Path:
    """The migrations' folder: inside an installed package, or at the top of a checkout."""
    package = Path(multiflora_platform.__file__).parent
    packaged = package / "migrations"
    return packaged if packaged.is_dir() else package.parent.parent / "migrations"


def upgrade(database_url: str, revision: str = "head") -> None:
    """Apply what is missing (up to a revision), in one transaction; processes that start together wait for each other.

    Raises DatabaseOutdated when a newer release has written this database.
    """
    _run(database_url, lambda config: command.upgrade(config, revision))


def prepare(database_url: str) -> None:
    """At a start: SQLite upgrades itself, others are checked. Raises DatabaseOutdated, DatabaseUnusable."""
    if database_url.startswith("sqlite"):
        upgrade(database_url)
    else:
        check_current(database_url)


def downgrade(database_url: str, revision: str = "base") -> None:
    """Take the schema back; the data of dropped tables is lost."""
    _run(database_url, lambda config: command.downgrade(config, revision))


def check_current(database_url: str) -> None:
    """Raises DatabaseOutdated unless the schema is this release's; for databases that do not upgrade themselves."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    with connected(database_url) as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current != head:
        raise DatabaseOutdated(
            f"The database is at schema {current or 'none'}, this release needs {head}: run `multiflora db upgrade`."
        )


def _run(database_url: str, action: Callable[[Config], None]) -> None:
    config = _config()
    try:
        with connected(database_url) as connection:
            config.attributes["connection"] = connection
            connection.begin()  # before Alembic, which would otherwise end SQLite's transaction after each script
            if connection.dialect.name == "postgresql":  # SQLite's BEGIN IMMEDIATE is such a lock by itself
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_UPGRADE_LOCK})"))
            action(config)
            connection.commit()
    except CommandError as error:
        raise DatabaseOutdated(f"The database was written by another release of multiflora: {error}.") from error


@contextmanager
def reading(database_url: str) -> Iterator[Connection]:
    """One moment's view, beside which others may write. Raises DatabaseUnusable."""
    with connected(database_url, mode="DEFERRED", isolation_level="REPEATABLE READ") as opened:
        yield opened


@contextmanager
def connected(
    database_url: str, *, mode: str = "IMMEDIATE", isolation_level: str = "READ COMMITTED"
) -> Iterator[Connection]:
    """mode: of SQLite's transactions. isolation_level: of PostgreSQL's.

    Raises DatabaseUnusable: a wrong address, a missing driver, a file that is not a database, no server.
    """
    try:
        with _engine(database_url, mode, isolation_level).connect() as opened:
            yield opened
    except (SQLAlchemyError, ModuleNotFoundError, OSError) as error:
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        shown = make_url(database_url).render_as_string(hide_password=True)
        raise DatabaseUnusable(f"The database {shown} cannot be used: {cause}.") from error


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(scripts()).replace("%", "%%"))
    return config


def _engine(database_url: str, mode: str, isolation_level: str) -> Engine:
    url = with_driver(database_url)
    if url.get_backend_name() != "sqlite":
        return create_engine(
            url, poolclass=NullPool, connect_args=postgres_arguments(), isolation_level=isolation_level
        )
    private_database(url)
    engine = create_engine(url.set(drivername="sqlite"), poolclass=NullPool)
    event.listen(engine, "connect", lambda connection, _: sqlite_pragmas(connection))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(f"BEGIN {mode}"))
    return engine
