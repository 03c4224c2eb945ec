"""`multiflora db upgrade`."""

from __future__ import annotations

import argparse
from typing import Any

from multiflora_platform.cli.flags import add_settings_flags, settings_from
from multiflora_platform.settings import ConfigurationError


def add_parser(commands: Any) -> None:
    group = commands.add_parser("db", help="the registry's database").add_subparsers(
        dest="action", metavar="ACTION", required=True
    )
    parser = group.add_parser("upgrade", help="bring the schema to this release")
    add_settings_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from sqlalchemy import make_url

    from multiflora_platform.registry.errors import RegistryError
    from multiflora_platform.registry.migrate import upgrade
    from multiflora_platform.serve import prepare_data_dir

    settings, _ = settings_from(arguments)
    prepare_data_dir(settings)
    url = settings.resolved_database_url
    try:
        upgrade(url)
    except RegistryError as error:
        raise ConfigurationError(error.detail) from None
    print(f"schema is up to date: {make_url(url).render_as_string(hide_password=True)}")
    return 0
