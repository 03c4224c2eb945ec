"""What the command line says about a version: its lineage as flags, the evals that it must pass from a file."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from multiflora_platform.exit_codes import CommandError, ExitCode


def add_lineage_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parent", type=int, metavar="VERSION", help="the version that it was trained further from")
    parser.add_argument("--training-run", metavar="ID", help="found again with `versions ls --training-run`")
    parser.add_argument("--dataset", action="append", metavar="ID", help="what it was trained on; repeatable")
    parser.add_argument("--metric", action="append", metavar="NAME=NUMBER", help="of the training; repeatable")


def metrics(arguments: argparse.Namespace) -> dict[str, float]:
    """What was given, as the API takes it. Raises CommandError."""
    found = {}
    for text in arguments.metric or ():
        name, _, value = text.rpartition("=")
        found[name] = number(value, f"--metric {text!r} is not NAME=NUMBER, such as eval_loss=0.31")
    return found


def number(text: str, otherwise: str) -> float:
    """A number that JSON can say. otherwise: what is told where it is none. Raises CommandError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise CommandError(otherwise, ExitCode.USAGE)
    return value


def lineage(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was given, as the API takes it."""
    fields = {"parent_version": arguments.parent, "training_run": arguments.training_run, "datasets": arguments.dataset}
    return {name: value for name, value in fields.items() if value is not None}


def evals(path: str | None) -> list[Any]:
    """The list in a JSON file; the server judges what is in it. Raises CommandError."""
    if path is None:
        return []
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise CommandError(f"cannot read --evals {path}: {error.strerror}") from None
    except ValueError as error:
        raise CommandError(f"--evals {path} is not JSON: {error}", ExitCode.USAGE) from None
    if not isinstance(found, list):
        raise CommandError(f'--evals {path} must hold a list, as [{{"prompt": …, "contains": […]}}]', ExitCode.USAGE)
    return found
