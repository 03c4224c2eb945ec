"""`multiflora db upgrade`."""

from __future__ import annotations

import argparse
from typing import Any

from multiflora_platform.cli.flags import add_settings_flags, settings_from


def add_parser(commands: Any) -> None:
    group = commands.add_parser("db", help="the registry's database").add_subparsers(
        dest="action", metavar="ACTION", required=True
    )
    parser = group.add_parser("upgrade", help="bring the schema to this release")
    add_settings_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from multiflora_platform.registry.migrate import upgrade
    from multiflora_platform.serve import prepare_data_dir

    settings, _ = settings_from(arguments)
    prepare_data_dir(settings)
    upgrade(settings.resolved_database_url)
    print(f"schema is up to date: {settings.resolved_database_url}")
    return 0
