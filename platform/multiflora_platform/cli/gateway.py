"""`multiflora gateway [MODEL]`: a server without engines of its own, for those of `multiflora engine`."""

from __future__ import annotations

import argparse
from typing import Any

from multiflora_platform.cli.flags import add_settings_flags, configuration_from
from multiflora_platform.cli.serve import ended_by_sigterm


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser("gateway", help="a server for engines of other hosts")
    add_settings_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    with ended_by_sigterm():
        configuration = configuration_from(arguments)
        from multiflora_platform.server.serve import serve_gateway

        return serve_gateway(configuration.settings, configuration.sources)
