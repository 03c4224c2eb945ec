"""A command's actions on a running server: each has the server's flags and `-o`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from multiflora_platform.cli.http import add_server_flags
from multiflora_platform.cli.output import add_output_flag

Run = Callable[[argparse.Namespace], int]


class Actions:
    """`multiflora NAME ACTION`. commands: where the command is added."""

    def __init__(self, commands: Any, name: str, help_text: str) -> None:
        parser = commands.add_parser(name, help=help_text)
        self.group = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def add(self, name: str, run: Run, help_text: str) -> argparse.ArgumentParser:
        return server_command(self.group, name, run, help_text)


def server_command(commands: Any, name: str, run: Run, help_text: str) -> argparse.ArgumentParser:
    """One command that talks to a server."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help_text)
    add_server_flags(parser)
    add_output_flag(parser)
    parser.set_defaults(run=run)
    return parser
