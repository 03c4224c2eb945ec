"""`multiflora engine [MODEL]`: an engine that gateways of other hosts use."""

from __future__ import annotations

import argparse
from typing import Any

from multiflora_platform.cli.flags import add_settings_flags, configuration_from
from multiflora_platform.cli.serve import ended_by_sigterm


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser("engine", help="an engine for gateways of other hosts")
    add_settings_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    with ended_by_sigterm():
        settings = configuration_from(arguments).settings
        from multiflora_platform.server.engines.host import run_engine

        return run_engine(settings)
