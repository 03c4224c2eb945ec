"""`multiflora completion bash|zsh|tcsh`: a script that completes commands, actions and flags in a shell."""

from __future__ import annotations

import argparse
from typing import Any

import shtab


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("completion", help="print a completion script for a shell")
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    print(shtab.complete(arguments.parser, shell=arguments.shell))
    return 0
