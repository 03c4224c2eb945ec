"""The `multiflora` command: parse, run one command, turn its outcome into an exit code and a line of error."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from multiflora_platform.cli import (
    adapters,
    bench,
    cache,
    completion,
    config,
    contexts,
    database,
    doctor,
    engine,
    evals,
    fleet,
    gateway,
    jobs,
    keys,
    models,
    on_ray,
    serve,
    talk,
    tenants,
    versions,
    webhooks,
)
from multiflora_platform.cli.flags import unknown_flags
from multiflora_platform.cli.vllm_spelling import as_we_write_it
from multiflora_platform.cli.watching import events, profile, requests, top, usage
from multiflora_platform.exit_codes import CommandError, ExitCode
from multiflora_platform.settings import ConfigurationError

COMMANDS = (
    serve,
    engine,
    gateway,
    on_ray,
    adapters,
    versions,
    evals,
    jobs,
    tenants,
    keys,
    usage,
    webhooks,
    events,
    requests,
    profile,
    top,
    database,
    models,
    talk,
    bench,
    cache,
    contexts,
    fleet,
    doctor,
    config,
    completion,
)
_TAKE_SETTINGS = frozenset({"serve", "engine", "gateway", "config", "db", "doctor"})


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="multiflora", description="Serve many LoRA adapters on one base model.")
    parser.set_defaults(parser=parser)
    parser.add_argument("--version", "-v", action="version", version=f"multiflora {version('multiflora')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `multiflora ARGV` and return its exit code; usage errors exit with 2 from argparse itself."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] and words[0] in _TAKE_SETTINGS:
        words = as_we_write_it(words)
    arguments, unknown = build_parser().parse_known_args(words)
    if unknown:
        _refuse_unknown(arguments, words, unknown)
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


def _refuse_unknown(arguments: argparse.Namespace, words: Sequence[str], unknown: Sequence[str]) -> NoReturn:
    """Ends with the usage line of the command, and the flag that was probably meant."""
    if "settings_parser" in arguments:
        arguments.settings_parser.error(unknown_flags(unknown))
    command = _command_of(arguments.parser, words)
    near = difflib.get_close_matches(unknown[0].partition("=")[0], command._option_string_actions, n=1)
    command.error(f"unrecognized arguments: {' '.join(unknown)}{f'; did you mean {near[0]}?' if near else ''}")


def _command_of(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the command, or of a command's action, that the words name."""
    for group in parser._actions:
        if isinstance(group, argparse._SubParsersAction):
            place = next((place for place, word in enumerate(words) if word in group.choices), None)
            return parser if place is None else _command_of(group.choices[words[place]], words[place + 1 :])
    return parser


def _fail(message: str, code: int, arguments: argparse.Namespace) -> int:
    if getattr(arguments, "log_level", None) == "debug":
        raise
    print(f"multiflora: {message}", file=sys.stderr)
    return code
