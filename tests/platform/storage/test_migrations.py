"""Migrations: they make the models' schema, go both ways, and refuse a newer database."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, event, inspect, select, text

from multiflora_platform.storage.connections import with_driver
from multiflora_platform.storage.migrations import (
    _config,
    check_current,
    downgrade,
    prepare,
    upgrade,
)
from multiflora_platform.storage.tables import AliasRow, Base, KeyUsageRow
from multiflora_platform.web.problems import DatabaseOutdated, DatabaseUnusable


@pytest.fixture
def url(tmp_path, backend, request):
    if backend == "postgresql":
        return request.getfixturevalue("postgres").create()
    return f"sqlite:///{tmp_path / 'data' / 'multiflora.db'}"


@contextmanager
def connected(url):
    engine = create_engine(with_driver(url))
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def tables(url):
    with connected(url) as connection:
        return set(inspect(connection).get_table_names()) - {"alembic_version", "sqlite_sequence"}


def test_migrations_make_what_the_models_say(url, backend):
    upgrade(url)
    with connected(url) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        if backend == "postgresql":
            query = text("SELECT indexdef FROM pg_indexes WHERE indexname = 'uq_adapters_name'")
            assert "deleted_at IS NULL" in connection.execute(query).scalar_one()
            return
        unique = connection.execute(text("SELECT sql FROM sqlite_master WHERE name = 'uq_adapters_name'")).scalar_one()
        counted = connection.execute(text("SELECT name FROM sqlite_master WHERE sql LIKE '%AUTOINCREMENT%'")).scalars()
        assert "deleted_at IS NULL" in unique
        assert {"alias_history", "events", "audit"} <= set(counted)


def test_every_migration_goes_up_and_down_with_rows(url):
    """Each step up, rows that the first release could have written, each step down and up again."""
    revisions = [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()][::-1]
    upgrade(url, revisions[0])
    with connected(url) as connection:
        for statement in FIRST_ROWS:
            connection.execute(text(statement), {"now": datetime(2026, 1, 1, tzinfo=UTC)})
    for revision in revisions[1:]:
        upgrade(url, revision)
    check_current(url)
    for revision in revisions[-2::-1]:
        downgrade(url, revision)
    with connected(url) as connection:
        assert connection.execute(text("SELECT count(*) FROM versions")).scalar_one() == 1
        assert connection.execute(text("SELECT count(*) FROM idempotency")).scalar_one() == 1
    upgrade(url)
    check_current(url)


ROLLBACK_ROWS = (
    "INSERT INTO aliases (adapter_id, name, target, layout, revision, updated_at, protected)"
    " VALUES (1, 'moved', '{\"version\": 3}', '[3]', 14, :now, false),"
    " (1, 'once', '{\"version\": 1}', '[1]', 20, :now, false),"
    " (1, 'back', '{\"version\": 1}', '[1]', 30, :now, false)",
    "INSERT INTO alias_history (id, adapter_id, alias, target, actor, at) VALUES"
    " (10, 1, 'moved', '{\"version\": 1}', 'x', :now), (11, 1, 'moved', '{\"version\": 2}', 'x', :now),"
    " (12, 1, 'moved', '{\"split\": {\"2\": 90, \"3\": 10}}', 'x', :now),"
    " (14, 1, 'moved', '{\"version\": 3}', 'x', :now),"
    " (20, 1, 'once', '{\"version\": 1}', 'x', :now), (28, 1, 'back', '{\"version\": 7}', 'x', :now),"
    " (30, 1, 'back', '{\"version\": 1}', 'x', :now)",
    "INSERT INTO rollouts (id, adapter_id, alias, stable, candidate, percent, shadow_percent, bounds, state,"
    " created_by, created_at) VALUES (1, 1, 'back', 1, 2, 10, 0, '{}', 'rolled_back', 'x', :now)",
)


def test_aliases_learn_where_a_rollback_goes(url):
    """A split is no target; a version that was rolled back from is none either; a first target has none before it."""
    upgrade(url, "0001")
    with connected(url) as connection:
        connection.execute(text(FIRST_ROWS[0]), {"now": datetime(2026, 1, 1, tzinfo=UTC)})
    upgrade(url, "0008")
    with connected(url) as connection:
        for statement in ROLLBACK_ROWS:
            connection.execute(text(statement), {"now": datetime(2026, 1, 1, tzinfo=UTC)})
    upgrade(url)
    with connected(url) as connection:
        rows = connection.execute(select(AliasRow.name, AliasRow.previous).order_by(AliasRow.name))
        assert dict(rows.all()) == {"back": {"version": 1}, "moved": {"version": 2}, "once": None}


def test_what_was_used_before_keys_were_counted_is_of_no_key(url):
    """A server of the version before goes on writing by three columns."""
    upgrade(url, "0025")
    usage = (
        "INSERT INTO usage (day, tenant, adapter, requests, prompt_tokens, cached_tokens, completion_tokens, device_us)"
        " VALUES ('2026-01-01', 't', :adapter, 1, 2, 3, 4, 5) ON CONFLICT (day, tenant, adapter)"
        " DO UPDATE SET requests = usage.requests + excluded.requests"
    )
    for revision, adapter in (("0025", "x"), ("head", "x"), ("head", "y")):
        upgrade(url, revision)
        with connected(url) as connection:
            connection.execute(text(usage), {"adapter": adapter})
    with connected(url) as connection:
        kept = connection.execute(select(KeyUsageRow.adapter, KeyUsageRow.key, KeyUsageRow.requests)).all()
        assert kept == [("x", "", 1)]


FIRST_ROWS = (
    "INSERT INTO adapters (id, name, description, tags, created_at, updated_at) VALUES (1, 'a', '', '[]', :now, :now)",
    "INSERT INTO tenants (id, name, created_at) VALUES (1, 't', :now)",
    "INSERT INTO keys (id, hmac, prefix, name, role, tenant_id, created_at)"
    " VALUES ('k', 'h', 'mf-', 'k', 'tenant', 1, :now)",
    "INSERT INTO versions (id, adapter_id, number, state, base_digest, source, created_by, created_at, updated_at)"
    " VALUES (1, 1, 1, 'ready', 'b', 'upload', 'x', :now, :now)",
    "INSERT INTO aliases (adapter_id, name, target, layout, revision, updated_at)"
    " VALUES (1, 'default', '{\"version\": 1}', '[1]', 1, :now)",
    "INSERT INTO idempotency (adapter_id, key, request_hash, status, response, created_at)"
    " VALUES (1, 'k', 'h', 201, '{}', :now)",
)


def columns(url):
    """The columns of each table, by name."""
    with connected(url) as connection:
        inspector = inspect(connection)
        return {
            table: {column["name"]: column for column in inspector.get_columns(table)}
            for table in inspector.get_table_names()
        }


def test_columns_added_to_tables_may_be_left_out_by_servers_of_the_release_before(url):
    """A NOT NULL column that a later migration adds has a server default: older servers insert without it."""
    revisions = [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()][::-1]
    upgrade(url, revisions[0])
    before, required = columns(url), []
    for revision in revisions[1:]:
        upgrade(url, revision)
        after = columns(url)
        required += [
            (revision, table, name)
            for table in before.keys() & after.keys()
            for name in after[table].keys() - before[table].keys()
            if not after[table][name]["nullable"] and after[table][name]["default"] is None
        ]
        before = after
    assert required == []


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
    with connected(url) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseOutdated):
        upgrade(url)
    with pytest.raises(DatabaseOutdated):
        check_current(url)


def test_an_upgrade_is_one_transaction(url):
    commits = []
    listen = (Engine, "commit", commits.append)
    event.listen(*listen)
    try:
        upgrade(url)
    finally:
        event.remove(*listen)
    assert len(commits) == 1


def test_processes_that_start_together_wait_for_each_other(url):
    code = f"from multiflora_platform.storage.migrations import upgrade; upgrade({url!r})"
    processes = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(3)]
    assert [process.communicate()[1] for process in processes] == [b""] * 3
    assert tables(url) == set(Base.metadata.tables)


def test_a_database_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "text.db").write_text("no database, but long enough to be looked at" * 100)
    (tmp_path / "folder.db").mkdir()
    for url in (
        f"sqlite:///{tmp_path / 'text.db'}",
        f"sqlite:///{tmp_path / 'folder.db'}",
        "nonsense",
        "oracle://x",
        "postgresql://user:hidden@127.0.0.1:1/x",
        "postgresql+psycopg://user:hidden@127.0.0.1:1/x",
    ):
        with pytest.raises(DatabaseUnusable) as caught:
            prepare(url)
        assert "hidden" not in caught.value.detail
        assert "\n" not in caught.value.detail
