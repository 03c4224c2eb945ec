"""`multiflora doctor`: what this machine can do, and what to change where it could do more."""

from __future__ import annotations

import argparse
from typing import Any

from multiflora_platform.cli.flags import add_settings_flags, configuration_from
from multiflora_platform.cli.terminal.output import add_output_flag, emit
from multiflora_platform.observability.machine import checks


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("doctor", help="explain what this machine can do for a server with these settings")
    add_settings_flags(parser)
    add_output_flag(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    rows = list(checks(configuration_from(arguments).settings.data_dir))
    emit(arguments.output, rows, ("state", "check", "found", "advice"))
    return 1 if any(row["state"] == "error" for row in rows) else 0
