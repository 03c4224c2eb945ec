"""`multiflora contexts ls|put|show|rm`, over the server's REST API."""

from __future__ import annotations

import argparse
import time
from typing import Any

from multiflora_platform.cli.actions import Actions, Run
from multiflora_platform.cli.http import every, quoted, request
from multiflora_platform.cli.terminal.files import add_prompt_flags, prompt_from
from multiflora_platform.cli.terminal.output import emit, emit_one, tell
from multiflora_platform.exit_codes import ExitCode

COLUMNS = {
    "name": "name",
    "tenant": "tenant",
    "status": "status",
    "tokens": "tokens",
    "cached_tokens": "cached",
    "held": "held",
    "hits": "hits",
    "adapters": "models",
    "expires_at": "expires",
}

_POLL_SECONDS = 0.5


def add_parser(commands: Any) -> None:
    actions = Actions(commands, "contexts", "beginnings of prompts that the prefix cache holds")
    listing = actions.add("ls", ls, "list contexts")
    putting = _with_name(actions, "put", put, "make or replace one; - reads a file from standard input")
    add_prompt_flags(putting)
    putting.add_argument("--adapter", action="append", default=[], dest="adapters", help="repeatable; none: the base")
    putting.add_argument("--ttl", metavar="TIME", help="such as 5m, 1h, 7d, or seconds; default: for ever")
    putting.add_argument("--no-pin", dest="pin", action="store_false", help="it may be evicted")
    putting.add_argument("--priority", type=int, default=0, help="smaller is computed first")
    putting.add_argument("--wait", action="store_true", help="until it is computed")
    showing = _with_name(actions, "show", show, "what the engine has of it now")
    removing = _with_name(actions, "rm", rm, "delete one")
    for parser in (listing, putting, showing, removing):
        parser.add_argument("--tenant", help="whose, with an admin key")


def _with_name(actions: Actions, name: str, run: Run, help_text: str) -> argparse.ArgumentParser:
    parser = actions.add(name, run, help_text)
    parser.add_argument("name")
    return parser


def ls(arguments: argparse.Namespace) -> int:
    rows = [{**row, "adapters": sorted(row["adapters"])} for row in every(arguments, "/contexts", _owner(arguments))]
    emit(arguments.output, rows, COLUMNS)
    return ExitCode.OK


def put(arguments: argparse.Namespace) -> int:
    """Exit code 1 where it was waited for and is not all cached."""
    body = {name: getattr(arguments, name) for name in ("adapters", "ttl", "pin", "priority")}
    body |= prompt_from(arguments)
    shown = request(arguments, "PUT", _path(arguments), params=_owner(arguments), json=body).json()
    while arguments.wait and shown["status"] == "computing":
        time.sleep(_POLL_SECONDS)
        shown = request(arguments, "GET", _path(arguments), params=_owner(arguments)).json()
    emit_one(arguments.output, shown)
    return ExitCode.OK if not arguments.wait or shown["status"] == "warm" else ExitCode.FAILURE


def show(arguments: argparse.Namespace) -> int:
    emit_one(arguments.output, request(arguments, "GET", _path(arguments), params=_owner(arguments)).json())
    return ExitCode.OK


def rm(arguments: argparse.Namespace) -> int:
    request(arguments, "DELETE", _path(arguments), params=_owner(arguments))
    tell(arguments.output, "deleted", arguments.name)
    return ExitCode.OK


def _path(arguments: argparse.Namespace) -> str:
    return f"/contexts/{quoted(arguments.name)}"


def _owner(arguments: argparse.Namespace) -> dict[str, str]:
    return {"tenant": arguments.tenant} if arguments.tenant else {}
