"""`multiflora profile`: records what a running server does, waits for it and saves the trace."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from multiflora_platform.cli.actions import server_command
from multiflora_platform.cli.http import quoted, request
from multiflora_platform.cli.terminal.output import emit_one
from multiflora_platform.exit_codes import CommandError

_POLL_SECONDS = 0.2


def add_parser(commands: Any) -> None:
    parser = server_command(commands, "profile", run, "record what an engine, or the gateway, is doing")
    parser.add_argument(
        "--kind",
        choices=("torch", "python", "memory"),
        default="python",
        help="operations of torch (Chrome trace), stacks of Python (folded), or memory that grows (report)",
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to record")
    parser.add_argument("--replica", metavar="ID", help="which engine; by default the first that is ready")
    parser.add_argument("--gateway", action="store_true", help="the gateway's process in the place of an engine's")
    parser.add_argument(
        "--file", type=Path, metavar="FILE", help="where the trace is saved; -: printed; default: named by the server"
    )


def run(arguments: argparse.Namespace) -> int:
    body: dict[str, Any] = {"kind": arguments.kind, "seconds": arguments.seconds}
    if arguments.replica is not None:
        body["replica"] = arguments.replica
    if arguments.gateway:
        body["process"] = "gateway"
    profile = request(arguments, "POST", "/profile", json=body).json()
    path = f"/profile/{quoted(profile['id'])}"
    time.sleep(arguments.seconds)
    while profile["state"] == "running":
        profile = request(arguments, "GET", path).json()
        time.sleep(_POLL_SECONDS if profile["state"] == "running" else 0.0)
    if profile["state"] == "failed":
        raise CommandError(profile["error"])
    trace = request(arguments, "GET", f"{path}/trace").content
    if arguments.file == Path("-"):
        sys.stdout.buffer.write(trace)
        sys.stdout.buffer.flush()
        return 0
    file = arguments.file or Path(profile["file"])
    _save(file, trace)
    _tell(arguments.output, {**profile, "file": str(file), "bytes": len(trace)})
    return 0


def _tell(output: str, profile: dict[str, Any]) -> None:
    if output == "json":
        emit_one(output, profile)
    else:
        whose = "the gateway" if profile["replica"] is None else f"replica {profile['replica']}"
        print(f"{profile['file']}: {profile['bytes']} bytes, {profile['kind']} of {whose}")


def _save(path: Path, trace: bytes) -> None:
    try:
        path.write_bytes(trace)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}; --file names another place") from None
