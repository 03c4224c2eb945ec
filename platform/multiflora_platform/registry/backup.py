"""Backing up a registry and putting it back: every table's rows of one moment, the artifacts they name, the secret.

The same for SQLite and PostgreSQL, so that a backup of one can be restored into the other. Knows no models: it reads
the schema that it finds, and a backup of an older release is brought up to date after it was restored.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import JSON, DateTime, MetaData, Table, func, insert, select, text
from sqlalchemy.engine import Connection

from multiflora_adapters.store import ArtifactStore
from multiflora_platform.auth.secret import SECRET_NAME
from multiflora_platform.registry.artifacts.opening import open_store
from multiflora_platform.storage import migrations as migrate
from multiflora_platform.storage.connections import private_folder
from multiflora_platform.web.problems import Problem

_FORMAT = 1
_BATCH = 500
_OTHER_FOLDER = "--data-dir names the server's folder."


class BackupFailed(Problem):
    """The detail says what is in the way."""

    status, slug, title = 500, "backup-failed", "The backup cannot be made or restored"


class Contents(msgspec.Struct, frozen=True):
    """backup.json: written by `backup`, read by `restore`."""

    format: int  # of the backup's own layout: _FORMAT
    revision: str  # the schema's, as Alembic names it
    made_at: datetime
    rows: dict[str, int]  # how many of each table, in the order in which they are put back
    artifacts: int  # how many folders were copied
    missing: list[str]  # digests that a version names without files on the disk


def backup(database_url: str, data_dir: Path, target: Path, artifact_store: str | None = None) -> Contents:
    """Into the folder `target`, which must not exist yet. Servers may run and write meanwhile. artifact_store: where
    artifacts are that the data folder lacks.

    Raises BackupFailed, DatabaseUnusable.
    """
    if target.exists():
        raise BackupFailed(f"{target} exists; name a folder that does not.")
    partial = private_folder(target.with_name(f".{target.name}.partial-{os.getpid()}"))
    try:
        contents = _write(database_url, data_dir, partial, artifact_store)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return contents


def restore(database_url: str, data_dir: Path, source: Path, artifact_store: str | None = None) -> Contents:
    """Into a database without adapters and a data folder without artifacts; no server may run on them. artifact_store:
    gets the artifacts, too.

    Raises BackupFailed, DatabaseUnusable.
    """
    contents = _read_contents(source)
    store = open_store(private_folder(data_dir), artifact_store)
    if store.digests():
        raise BackupFailed(f"{data_dir} has artifacts already; restore into an empty --data-dir.")
    migrate.upgrade(database_url, contents.revision)
    _restore_artifacts(source / "artifacts", store)
    if (source / SECRET_NAME).exists():
        _copy_private(source / SECRET_NAME, data_dir / SECRET_NAME)
    with migrate.connected(database_url) as connection:
        _restore_rows(connection, contents, source)
        connection.commit()
    migrate.upgrade(database_url)
    return contents


def _write(database_url: str, data_dir: Path, folder: Path, artifact_store: str | None) -> Contents:
    store = open_store(data_dir, artifact_store)
    with _nothing_is_removed(store):
        with migrate.reading(database_url) as connection:
            revision, rows, digests = _dump(connection, folder)
        missing = [digest for digest in digests if not _copy_artifact(store, digest, folder / "artifacts" / digest)]
    if (data_dir / SECRET_NAME).exists():
        _copy_private(data_dir / SECRET_NAME, folder / SECRET_NAME)
    elif rows.get("keys") or len(missing) == len(digests) > 0:
        raise BackupFailed(f"{data_dir} is not the folder of this database: it has no secret. {_OTHER_FOLDER}")
    contents = Contents(_FORMAT, revision, datetime.now(UTC), rows, len(digests) - len(missing), missing)
    (folder / "backup.json").write_bytes(msgspec.json.format(msgspec.json.encode(contents)))
    return contents


def _dump(connection: Connection, folder: Path) -> tuple[str, dict[str, int], list[str]]:
    """(revision, rows by table, digests that the versions name), all of one moment."""
    metadata = _schema(connection)
    revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
    counts = {}
    for table in metadata.sorted_tables:
        with (folder / f"{table.name}.jsonl").open("wb") as file:
            counts[table.name] = 0
            for row in connection.execution_options(yield_per=_BATCH).execute(select(table)).mappings():
                file.write(msgspec.json.encode(dict(row)) + b"\n")
                counts[table.name] += 1
    versions = metadata.tables["versions"].c
    named = select(versions.digest).where(versions.digest.is_not(None), versions.state != "rejected").distinct()
    return revision, counts, sorted(connection.execute(named).scalars())


@contextmanager
def _nothing_is_removed(store: ArtifactStore) -> Iterator[None]:
    """Garbage collection of running servers waits: what the rows name is still there when it is copied."""
    try:
        store.leases.acquire_all()
        yield
    finally:
        store.leases.close()


def _copy_artifact(store: ArtifactStore, digest: str, target: Path) -> bool:
    """False when there is none (its adapter was deleted)."""
    try:
        shutil.copytree(store.brought(digest), target)
    except FileNotFoundError:
        return False
    return True


def _restore_artifacts(source: Path, store: ArtifactStore) -> None:
    for folder in sorted(source.iterdir()) if source.exists() else ():
        if store.add(folder).digest != folder.name:
            raise BackupFailed(f"The artifact {folder.name} of the backup is damaged.")


def _restore_rows(connection: Connection, contents: Contents, source: Path) -> None:
    metadata = _schema(connection)
    if connection.execute(select(func.count()).select_from(metadata.tables["adapters"])).scalar_one():
        raise BackupFailed("The database has adapters already; restore into an empty one.")
    for name in contents.rows:
        table = metadata.tables[name]
        for batch in _batches(source / f"{name}.jsonl"):
            connection.execute(insert(table), [_typed(table, row) for row in batch])
        _count_on(connection, table)


def _count_on(connection: Connection, table: Table) -> None:
    """PostgreSQL's counters know nothing of ids that were put in."""
    column = table.autoincrement_column
    if connection.dialect.name != "postgresql" or column is None:
        return
    largest = connection.execute(select(func.max(column))).scalar_one()
    sequence = connection.execute(text(f"SELECT pg_get_serial_sequence('{table.name}', '{column.name}')")).scalar_one()
    if largest is not None and sequence is not None:
        connection.execute(select(func.setval(sequence, largest)))


def _typed(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    for column in table.columns:
        value = row.get(column.name)
        if isinstance(column.type, DateTime) and value is not None:
            moment = datetime.fromisoformat(value)
            row[column.name] = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    return row


def _batches(path: Path) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for line in _lines(path):
        batch.append(msgspec.json.decode(line))
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _lines(path: Path) -> Iterable[bytes]:
    with path.open("rb") as file:
        yield from file


def _schema(connection: Connection) -> MetaData:
    metadata = MetaData()
    metadata.reflect(connection)
    if "alembic_version" not in metadata.tables:
        raise BackupFailed(f"The database is empty: no server has used it yet. {_OTHER_FOLDER}")
    metadata.remove(metadata.tables["alembic_version"])
    for table in metadata.tables.values():
        for column in table.columns:
            if isinstance(column.type, JSON):
                column.type.none_as_null = True  # NULL comes back as NULL, not as JSON's null
    return metadata


def _read_contents(source: Path) -> Contents:
    try:
        contents = msgspec.json.decode((source / "backup.json").read_bytes(), type=Contents)
    except OSError as error:
        raise BackupFailed(f"{source} is no backup: backup.json in it cannot be read ({error.strerror}).") from error
    except msgspec.MsgspecError as error:
        raise BackupFailed(f"{source} is no backup: {error}.") from error
    if contents.format != _FORMAT:
        raise BackupFailed(f"{source} was made by a newer release (format {contents.format}).")
    return contents


def _copy_private(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as writer:
        writer.write(source.read_bytes())
