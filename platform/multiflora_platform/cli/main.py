"""The `multiflora` command: parse, run one command, turn its outcome into an exit code and a line of error."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from multiflora_platform.cli import (
    adapters,
    bench,
    completion,
    config,
    database,
    doctor,
    events,
    jobs,
    keys,
    serve,
    tenants,
    usage,
    versions,
    webhooks,
)
from multiflora_platform.exit_codes import CommandError, ExitCode
from multiflora_platform.settings import ConfigurationError

COMMANDS = (
    serve,
    adapters,
    versions,
    jobs,
    tenants,
    keys,
    usage,
    webhooks,
    events,
    database,
    bench,
    doctor,
    config,
    completion,
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="multiflora", description="Serve many LoRA adapters on one base model.")
    parser.set_defaults(parser=parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `multiflora ARGV` and return its exit code; usage errors exit with 2 from argparse itself."""
    arguments = build_parser().parse_args(argv)
    try:
        return int(arguments.run(arguments) or ExitCode.OK)
    except ConfigurationError as error:
        return _fail(str(error), ExitCode.CONFIGURATION, arguments)
    except CommandError as error:
        return _fail(str(error), error.code, arguments)
    except KeyboardInterrupt:
        return ExitCode.FAILURE
    except BrokenPipeError:
        # The reader of our output went away (`multiflora adapters ls | head`); silence the interpreter's own flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILURE
    except Exception as error:
        return _fail(f"{type(error).__name__}: {error}; run again with --log-level debug to see where", 1, arguments)


def _fail(message: str, code: int, arguments: argparse.Namespace) -> int:
    if getattr(arguments, "log_level", None) == "debug":
        raise
    print(f"multiflora: {message}", file=sys.stderr)
    return code
