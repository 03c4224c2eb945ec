"""`multiflora db upgrade|backup|restore`, on this machine, without a server."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from multiflora_platform.cli.flags import add_settings_flags, settings_from
from multiflora_platform.settings import ConfigurationError, Settings


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
    from multiflora_platform.server.base_model import prepare_data_dir
    from multiflora_platform.web.problems import Problem

    settings, _ = settings_from(arguments)
    prepare_data_dir(settings)
    try:
        print(action(settings, arguments))
    except Problem as error:
        raise ConfigurationError(error.detail) from None
    return 0


def _upgrade(settings: Settings, arguments: argparse.Namespace) -> str:
    from sqlalchemy import make_url

    from multiflora_platform.storage.migrations import upgrade

    url = settings.resolved_database_url
    upgrade(url)
    return f"schema is up to date: {make_url(url).render_as_string(hide_password=True)}"


def _backup(settings: Settings, arguments: argparse.Namespace) -> str:
    from multiflora_platform.registry.backup import backup

    contents = backup(settings.resolved_database_url, settings.data_dir, arguments.folder)
    return f"{arguments.folder}: {contents.rows['adapters']} adapters, {contents.artifacts} artifacts"


def _restore(settings: Settings, arguments: argparse.Namespace) -> str:
    from multiflora_platform.registry.backup import restore

    contents = restore(settings.resolved_database_url, settings.data_dir, arguments.folder)
    return f"restored {contents.rows['adapters']} adapters and {contents.artifacts} artifacts"
