"""A command's actions on a running server: each has the server's flags and `-o`; most print what the server answers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from multiflora_platform.cli.http import add_server_flags, request
from multiflora_platform.cli.terminal.output import add_output_flag, emit_one
from multiflora_platform.exit_codes import CommandError, ExitCode

# A command: takes the parsed line, returns the exit code.
Run = Callable[[argparse.Namespace], int]


class Actions:
    """`multiflora NAME ACTION`."""

    def __init__(self, commands: Any, name: str, help_text: str) -> None:
        """commands: the subparsers that the command is added to."""
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


def show_answer(
    arguments: argparse.Namespace,
    method: str,
    path: str,
    brief: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    **options: Any,
) -> int:
    """Make the request, print the one object that it answers. brief: what a table shows of it; None: all."""
    answer = request(arguments, method, path, **options).json()
    emit_one(arguments.output, brief(answer) if brief and arguments.output == "table" else answer)
    return ExitCode.OK


def patch(arguments: argparse.Namespace, path: str, fields: dict[str, Any], advice: str, **options: Any) -> int:
    """Change the fields that the command line gives, print the result. advice: what to give, where it gives none."""
    if not fields:
        raise CommandError(f"nothing to change; {advice}", ExitCode.USAGE)
    return show_answer(arguments, "PATCH", path, json=fields, **options)
