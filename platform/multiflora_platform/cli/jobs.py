"""`multiflora jobs ls|show|wait|cancel`, over the server's REST API."""

from __future__ import annotations

import argparse
from typing import Any

from multiflora_platform.cli.actions import Actions, show_answer
from multiflora_platform.cli.http import (
    every,
    quoted,
    request,
    server_events,
)
from multiflora_platform.cli.terminal.output import emit, emit_one
from multiflora_platform.cli.terminal.progress import watching
from multiflora_platform.exit_codes import CommandError, ExitCode

COLUMNS = ("id", "adapter", "version", "state", "created_at", "error", "source", "attempts", "kind")
STATES = ("queued", "running", "succeeded", "failed", "cancelled")
_ENDED = STATES[2:]


def add_parser(commands: Any) -> None:
    actions = Actions(commands, "jobs", "imports that the server makes or has made")
    listing = actions.add("ls", ls, "list jobs, newest first")
    listing.add_argument("--adapter", help="only this adapter's")
    listing.add_argument("--state", choices=STATES)
    for name, run, help_text in (
        ("show", show, "one job"),
        ("wait", wait, "until it has ended; exit code 5 when its version was rejected"),
        ("cancel", cancel, "end a job; its version is rejected"),
    ):
        actions.add(name, run, help_text).add_argument("id", help="as `jobs ls` shows it")


def ls(arguments: argparse.Namespace) -> int:
    wanted = {name: value for name in ("adapter", "state") if (value := getattr(arguments, name))}
    emit(arguments.output, list(every(arguments, "/jobs", wanted)), COLUMNS)
    return 0


def show(arguments: argparse.Namespace) -> int:
    return show_answer(arguments, "GET", f"/jobs/{quoted(arguments.id)}")


def wait(arguments: argparse.Namespace) -> int:
    return outcome(arguments, arguments.id)


def outcome(arguments: argparse.Namespace, id: str) -> int:
    """Follows the job to its end and shows it; the exit code says how it ended."""
    job: dict[str, Any] = request(arguments, "GET", f"/jobs/{quoted(id)}").json()
    with watching(f"{job['adapter']}@{job['version']}") as moved:
        for job in server_events(arguments, f"/jobs/{quoted(id)}"):
            moved(job["progress"])
    if job["state"] not in _ENDED:
        raise CommandError(f"the server ended the watch while the job was {job['state']}; wait again")
    emit_one(arguments.output, job)
    if job["state"] == "succeeded":
        return ExitCode.OK
    return ExitCode.REJECTED if job["version_state"] == "rejected" else ExitCode.FAILURE


def cancel(arguments: argparse.Namespace) -> int:
    return show_answer(arguments, "POST", f"/jobs/{quoted(arguments.id)}:cancel")
