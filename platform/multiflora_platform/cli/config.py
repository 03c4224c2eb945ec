"""`multiflora config show`: every setting, its value, and where the value came from."""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

from multiflora_platform.base_models.engine_sizes import expected_sizes
from multiflora_platform.cli.flags import add_settings_flags, configuration_from
from multiflora_platform.cli.terminal.output import add_output_flag, emit
from multiflora_platform.configuration import value_and_source
from multiflora_platform.settings import ENV_PREFIX, ConfigurationError, Settings, flag


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
    settings, sizes = configuration.settings, None
    with contextlib.suppress(ConfigurationError):  # a model that cannot be served has settings all the same
        sizes = expected_sizes(settings)
    rows = []
    for name, field in Settings.model_fields.items():
        value, source = value_and_source(settings, configuration.sources, name, sizes)
        rows.append(
            {
                "setting": name,
                "value": value,
                "source": source,
                "flag": flag(name),
                "environment": ENV_PREFIX + name.upper(),
                "description": field.description,
            }
        )
    emit(arguments.output, rows, ("setting", "value", "source", "description"))
    return 0
