"""`multiflora models add|ls|show|rm|convert`: base models of a running server, and folders that become such."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from multiflora_platform.cli.actions import Actions, show_answer
from multiflora_platform.cli.http import quoted, request
from multiflora_platform.cli.terminal.output import add_output_flag, emit, emit_one, tell
from multiflora_platform.exit_codes import CommandError, ExitCode

COLUMNS = {
    "name": "name",
    "state": "state",
    "replicas": "replicas",
    "min_replicas": "min",
    "max_replicas": "max",
    "idle_seconds": "idle s",
    "adapters": "adapters",
    "in_flight": "running",
    "source": "source",
}
_POLL_SECONDS = 0.5


def add_parser(commands: Any) -> None:
    actions = Actions(commands, "models", "base models: loaded, listed, unloaded; folders converted")
    _add_adding(actions)
    actions.add("ls", ls, "base models of the server, the one that it was started with first")
    for name, run, help_text in (("show", show, "one base model"), ("rm", rm, "unload one; its requests end first")):
        actions.add(name, run, help_text).add_argument("name")
    _add_converting(actions.group)


def _add_adding(actions: Actions) -> None:
    adding = actions.add("add", add, "serve one more base model, and wait until it is loaded")
    adding.add_argument("name", help="what clients call it")
    adding.add_argument("source", help="a hub id, or a folder of the server's machine")
    adding.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="a setting for this model alone; repeatable"
    )
    adding.add_argument("--min-replicas", type=int, help="engines that stay while no request comes; default 1")
    adding.add_argument("--max-replicas", type=int, help="engines while requests come; default 1")
    adding.add_argument("--idle-seconds", type=float, help="without a request until those beyond the minimum end")
    adding.add_argument("--no-wait", action="store_true", help="return while it is being loaded")


def _add_converting(group: Any) -> None:
    convert = group.add_parser("convert", help="make safetensors of a model's .bin files, in a confined process")
    convert.add_argument("source", help="a folder with pytorch_model.bin, or a hub id")
    convert.add_argument("destination", type=Path, help="a new folder")
    convert.add_argument("--revision", help="branch, tag or commit of the hub")
    convert.add_argument("--download-dir", type=Path, help="where downloads are kept")
    convert.add_argument("--hf-token", help="token for the hub; default: HF_TOKEN")
    add_output_flag(convert)
    convert.set_defaults(run=run_convert)


def add(arguments: argparse.Namespace) -> int:
    source = Path(arguments.source).expanduser()
    body: dict[str, Any] = {
        "name": arguments.name,
        # The server's working folder may be another one.
        "source": str(source.resolve()) if source.is_dir() else arguments.source,
        "options": dict(map(_option, arguments.option)),
    }
    for field in ("min_replicas", "max_replicas", "idle_seconds"):
        if (value := getattr(arguments, field)) is not None:
            body[field] = value
    made = request(arguments, "POST", "/models", json=body).json()
    while made["job"]["state"] == "running" and not arguments.no_wait:
        time.sleep(_POLL_SECONDS)
        made = request(arguments, "GET", _path(arguments)).json()
    if made["job"]["state"] == "failed":
        raise CommandError(f"{arguments.name} could not be loaded: {made['job']['error']}")
    emit_one(arguments.output, made)
    return ExitCode.OK


def _option(given: str) -> tuple[str, Any]:
    """The value is JSON where it can be read so, else a text."""
    key, equals, value = given.partition("=")
    if not key or not equals:
        raise CommandError(f"--option {given!r} is not KEY=VALUE", ExitCode.USAGE)
    try:
        return key.replace("-", "_"), json.loads(value)
    except ValueError:
        return key.replace("-", "_"), value


def ls(arguments: argparse.Namespace) -> int:
    items = request(arguments, "GET", "/models").json()["items"]
    if arguments.output != "json":
        items = [{**item, "replicas": _running(item["replicas"])} for item in items]
    emit(arguments.output, items, COLUMNS)
    return ExitCode.OK


def _running(replicas: list[dict[str, str]]) -> str:
    return f"{sum(one['state'] == 'ready' for one in replicas)}/{len(replicas)} ready"


def show(arguments: argparse.Namespace) -> int:
    return show_answer(arguments, "GET", _path(arguments))


def rm(arguments: argparse.Namespace) -> int:
    request(arguments, "DELETE", _path(arguments))
    tell(arguments.output, "unloaded", arguments.name)
    return ExitCode.OK


def _path(arguments: argparse.Namespace) -> str:
    return f"/models/{quoted(arguments.name)}"


def run_convert(arguments: argparse.Namespace) -> int:
    from multiflora_engine.models.errors import ModelError
    from multiflora_engine.models.hub import resolve_model
    from multiflora_platform.conversion.weights import convert_weights

    try:
        source = resolve_model(
            arguments.source, arguments.download_dir, arguments.revision, arguments.hf_token, pickles=True
        )
        made = convert_weights(source, arguments.destination)
    except ModelError as error:
        raise CommandError(str(error), ExitCode.CONFIGURATION) from None
    row = {"folder": str(made.folder), "tensors": made.num_tensors, "bytes": made.num_bytes}
    emit_one(arguments.output, row)
    return ExitCode.OK
