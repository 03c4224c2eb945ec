"""Migrations: they make the models' schema, go both ways, and refuse a newer database."""

from __future__ import annotations

import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from multiflora_platform.registry.errors import DatabaseOutdated, DatabaseUnusable
from multiflora_platform.registry.migrate import check_current, downgrade, prepare, upgrade
from multiflora_platform.registry.tables import Base


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'data' / 'multiflora.db'}"


def tables(url):
    engine = create_engine(url)
    names = set(inspect(engine).get_table_names())
    engine.dispose()
    return names - {"alembic_version", "sqlite_sequence"}


def test_migrations_make_what_the_models_say(url):
    upgrade(url)
    engine = create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        unique = connection.execute(text("SELECT sql FROM sqlite_master WHERE name = 'uq_adapters_name'")).scalar_one()
        counted = connection.execute(text("SELECT name FROM sqlite_master WHERE sql LIKE '%AUTOINCREMENT%'")).scalars()
        assert "deleted_at IS NULL" in unique
        assert set(counted) == {"alias_history", "events", "audit", "webhook_deliveries"}
    engine.dispose()


def test_up_down_and_up_again(url):
    upgrade(url)
    upgrade(url)
    assert tables(url) == set(Base.metadata.tables)
    downgrade(url)
    assert tables(url) == set()
    upgrade(url)
    assert tables(url) == set(Base.metadata.tables)


def test_the_async_url_is_as_good(tmp_path, url):
    upgrade(url.replace("sqlite:", "sqlite+aiosqlite:"))
    check_current(url)


def test_an_old_and_a_newer_database_are_named(url):
    with pytest.raises(DatabaseOutdated, match="multiflora db upgrade"):
        check_current(url)
    upgrade(url)
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(DatabaseOutdated):
        upgrade(url)
    with pytest.raises(DatabaseOutdated):
        check_current(url)


def test_processes_that_start_together_wait_for_each_other(url):
    code = f"from multiflora_platform.registry.migrate import upgrade; upgrade({url!r})"
    processes = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(3)]
    assert [process.communicate()[1] for process in processes] == [b""] * 3
    assert tables(url) == set(Base.metadata.tables)


def test_the_models_compile_for_postgresql():
    dialect = postgresql.dialect()
    for table in Base.metadata.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=dialect))
        for index in table.indexes:
            assert "CREATE" in str(CreateIndex(index).compile(dialect=dialect))


def test_a_database_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "text.db").write_text("no database, but long enough to be looked at" * 100)
    (tmp_path / "folder.db").mkdir()
    for url in (
        f"sqlite:///{tmp_path / 'text.db'}",
        f"sqlite:///{tmp_path / 'folder.db'}",
        "nonsense",
        "oracle://x",
        "postgresql+psycopg://user:hidden@127.0.0.1:1/x",
    ):
        with pytest.raises(DatabaseUnusable) as caught:
            prepare(url)
        assert "hidden" not in caught.value.detail
        assert "\n" not in caught.value.detail
