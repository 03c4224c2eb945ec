"""`multiflora db upgrade|backup|restore`, on this machine, without a server."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from multiflora_platform.cli.flags import add_settings_flags, configuration_from
from multiflora_platform.settings import DATABASE_NAME, ConfigurationError, Settings

# As the Makefile has it.
MAKE_FOLDER = ".multiflora"


def add_parser(commands: Any) -> None:
    group = commands.add_parser("db", help="the registry's database").add_subparsers(
        dest="action", metavar="ACTION", required=True
    )
    _add(group, "upgrade", _upgrade, "bring the schema to this release")
    backup = _add(group, "backup", _backup, "copy database, artifacts and secret into a new folder; servers may run")
    backup.add_argument("folder", type=Path, help="the backup's folder, which must not exist yet")
    restore = _add(group, "restore", _restore, "put a backup into an empty database and data folder")
    restore.add_argument("folder", type=Path, help="a folder that `db backup` made")


def _add(
    group: Any, name: str, action: Callable[[Settings, argparse.Namespace], str], help: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = group.add_parser(name, help=help)
    add_settings_flags(parser)
    parser.set_defaults(run=lambda arguments: _run(arguments, action))
    return parser


def _run(arguments: argparse.Namespace, action: Callable[[Settings, argparse.Namespace], str]) -> int:
    from multiflora_platform.base_models.opening import prepare_data_dir
    from multiflora_platform.web.problems import Problem

    configuration = configuration_from(arguments)
    settings, sources = configuration.settings, configuration.sources
    if sources["data_dir"] == "default" and settings.database_url is None:
        settings = _with_data(settings)
    try:
        if arguments.action == "backup":
            _require_database(settings)
        else:
            prepare_data_dir(settings)
        print(action(settings, arguments))
    except Problem as error:
        raise ConfigurationError(error.detail) from None
    return 0


def _with_data(settings: Settings) -> Settings:
    """Where no --data-dir is given: the default folder, or that of `make serve` when only that one has a database."""
    here = Path.cwd() / MAKE_FOLDER
    if _database_of(settings.data_dir).exists() or not _database_of(here).exists():
        return settings
    print(f"using {here}; --data-dir names another folder", file=sys.stderr)
    return settings.model_copy(update={"data_dir": here})


def _require_database(settings: Settings) -> None:
    """A backup makes neither database nor data folder. Raises ConfigurationError, DatabaseUnusable."""
    from multiflora_platform.storage.connections import sqlite_file

    database = sqlite_file(settings.resolved_database_url)
    if settings.database_url is not None and database is not None and not database.exists():
        raise ConfigurationError(f"there is no database {database}; --database-url names the one that the server uses")
    for needed in (database, settings.data_dir):
        if needed is not None and not needed.exists():
            raise ConfigurationError(f"there is no {needed}; --data-dir names the folder that the server uses")


def _database_of(folder: Path) -> Path:
    return folder / DATABASE_NAME


def _upgrade(settings: Settings, arguments: argparse.Namespace) -> str:
    from sqlalchemy import make_url

    from multiflora_platform.storage.migrations import upgrade

    url = settings.resolved_database_url
    upgrade(url)
    return f"schema is up to date: {make_url(url).render_as_string(hide_password=True)}"


def _backup(settings: Settings, arguments: argparse.Namespace) -> str:
    from multiflora_platform.registry.backup import backup

    contents = backup(settings.resolved_database_url, settings.data_dir, arguments.folder, settings.artifact_store)
    return f"{arguments.folder}: {contents.rows['adapters']} adapters, {contents.artifacts} artifacts"


def _restore(settings: Settings, arguments: argparse.Namespace) -> str:
    from multiflora_platform.registry.backup import restore

    contents = restore(settings.resolved_database_url, settings.data_dir, arguments.folder, settings.artifact_store)
    return f"restored {contents.rows['adapters']} adapters and {contents.artifacts} artifacts"
