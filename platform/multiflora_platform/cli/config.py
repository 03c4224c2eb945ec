"""`multiflora config show`: every setting, its value, and where the value came from."""

from __future__ import annotations

import argparse
from typing import Any

from multiflora_platform.cli.flags import add_settings_flags, configuration_from
from multiflora_platform.cli.terminal.output import add_output_flag, emit
from multiflora_platform.settings import (
    ENV_PREFIX,
    Settings,
    flag,
    shown,
)


def add_parser(commands: Any) -> None:
    group = commands.add_parser("config", help="settings and their sources").add_subparsers(
        dest="action", metavar="ACTION", required=True
    )
    show = group.add_parser("show", help="print every setting")
    add_settings_flags(show)
    add_output_flag(show)
    show.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    configuration = configuration_from(arguments)
    settings, sources = configuration.settings, configuration.sources
    rows = [
        {
            "setting": name,
            "value": shown(name, getattr(settings, name)),
            "source": sources[name],
            "flag": flag(name),
            "environment": ENV_PREFIX + name.upper(),
            "description": field.description,
        }
        for name, field in Settings.model_fields.items()
    ]
    emit(arguments.output, rows, ("setting", "value", "source", "description"))
    return 0
