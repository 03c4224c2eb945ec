"""A PostgreSQL server of the tests' own: the installed package, a temporary folder, an unprivileged account."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PLACES = ("/usr/lib/postgresql", "/usr/pgsql-15", "/opt/homebrew/opt/postgresql@15")
# Commits are synchronous, which costs little without fsync: what `stop` ends loses none of them.
_QUICK = ("fsync=off", "full_page_writes=off", "max_connections=300")


def binaries() -> Path | None:
    """The folder with initdb and postgres (15 or newer); None: not installed."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    for place in _PLACES:
        folders += sorted(Path(place).glob("**/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Server:
    """PostgreSQL on 127.0.0.1, which refuses to run as root: then it is `postgres` or `nobody`."""

    def __init__(self, folder: Path, bin_folder: Path) -> None:
        self._folder = folder
        self._bin = bin_folder
        self._user = _unprivileged() if os.geteuid() == 0 else None
        self._numbers = itertools.count()
        self.port = _free_port()
        if self._user is not None:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        self._run("initdb", "-D", str(folder / "data"), "-U", "multiflora", "-A", "trust", "-E", "UTF8", "--no-sync")

    def start(self) -> None:
        options = [part for setting in _QUICK for part in ("-c", setting)]
        address = ["-h", "127.0.0.1", "-p", str(self.port), "-k", str(self._folder)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", str(self._folder / "data"), *address, *options],
                stdout=log, stderr=log, **self._identity(),
            )  # fmt: skip
        deadline = time.monotonic() + 30
        while subprocess.run([self._bin / "pg_isready", "-q", *address[:4]], check=False).returncode:
            assert time.monotonic() < deadline, (self._folder / "log").read_text()
            assert self._process.poll() is None, (self._folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """At once, as a crash would."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(30)

    def create(self, template: str = "template0") -> str:
        """A new database's URL."""
        name = f"t{next(self._numbers)}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def empty(self, name: str) -> str:
        """The URL of a database without rows. Deleting the few of a test is a seventh of what TRUNCATE takes, which
        makes new files for every table and index."""
        import psycopg

        tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename != 'alembic_version'"
        with psycopg.connect(self.url(name)) as connection:
            # No foreign key is checked: the tables may be emptied in any order.
            connection.execute("SET LOCAL session_replication_role = 'replica'")
            for (table,) in connection.execute(tables).fetchall():
                connection.execute(f'DELETE FROM "{table}"')  # type: ignore[arg-type]
            numbers = "SELECT setval(quote_ident(sequencename)::regclass, start_value, false) FROM pg_sequences"
            connection.execute(numbers)
        return self.url(name)

    def url(self, name: str) -> str:
        return f"postgresql://multiflora@127.0.0.1:{self.port}/{name}"

    def url_of_folder(self, name: str) -> str:
        """By its unix socket, which is the same in every network."""
        return f"postgresql://multiflora@/{name}?host={self._folder}&port={self.port}"

    def sql(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[arg-type]

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run([self._bin / program, *arguments], check=True, capture_output=True, **self._identity())

    def _identity(self) -> dict[str, object]:
        where: dict[str, object] = {"cwd": self._folder}
        if self._user is None:
            return where
        return {**where, "user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}


def _unprivileged() -> pwd.struct_passwd:
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    return names.get("postgres") or names["nobody"]


@contextmanager
def running() -> Iterator[Server | None]:
    """None where PostgreSQL is not installed."""
    bin_folder = binaries()
    if bin_folder is None:
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="multiflora-postgres-"))
    try:
        server = Server(folder, bin_folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
