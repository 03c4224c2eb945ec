"""`multiflora serve [MODEL]`."""

from __future__ import annotations

import argparse
from typing import Any

from multiflora_platform.cli.flags import add_settings_flags, settings_from


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser("serve", help="serve a base model and its adapters")
    add_settings_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from multiflora_platform.serve import serve

    settings, _ = settings_from(arguments)
    return serve(settings)
