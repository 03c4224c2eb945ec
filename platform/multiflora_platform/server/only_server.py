"""One server at a time where two would harm each other: locks on a data folder and on SQLite's file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from multiflora_platform.settings import ConfigurationError, Settings
from multiflora_platform.storage.connections import private_folder, sqlite_file
from multiflora_platform.web.problems import DatabaseUnusable


@contextmanager
def only_server_of(settings: Settings) -> Iterator[None]:
    """Two servers on one SQLite file would not see each other's work at once; each would watch, judge and clean up. On
    one data folder with databases of their own, each would remove the other's artifacts; servers on PostgreSQL share
    both. The kernel gives a lock back when its process ends, however it ends. Raises ConfigurationError."""
    try:
        database = sqlite_file(settings.resolved_database_url)
    except DatabaseUnusable as error:
        raise ConfigurationError(error.detail) from None
    kind = fcntl.LOCK_SH if database is None else fcntl.LOCK_EX
    with ExitStack() as held:
        held.enter_context(_locked(settings.data_dir / "server.lock", kind, f"--data-dir {settings.data_dir}"))
        if database is not None:
            file = database.resolve()
            held.enter_context(_locked(file.with_name(f".{file.name}.lock"), kind, f"the database {database}"))
        yield


@contextmanager
def _locked(path: Path, kind: int, what: str) -> Iterator[None]:
    """kind: fcntl.LOCK_EX or LOCK_SH. Raises ConfigurationError."""
    try:
        if not path.parent.exists():
            private_folder(path.parent)
        lock = path.open("a+")
    except OSError as error:
        raise ConfigurationError(f"cannot use {what}: {error.strerror}; give one that you may write") from None
    with lock:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise ConfigurationError(
                f"another server (process {lock.read().strip() or 'unknown'}) uses {what}; stop it, give this one a "
                "folder of its own, or let several share PostgreSQL with --database-url"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
