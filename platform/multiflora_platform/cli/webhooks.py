"""`multiflora webhooks create|ls|show|set|test|deliveries|redeliver|rotate|rm`, over the server's REST API."""

from __future__ import annotations

import argparse
from typing import Any

from multiflora_platform.cli.actions import Actions, Run, patch, show_answer
from multiflora_platform.cli.http import quoted, request
from multiflora_platform.cli.terminal.output import emit, emit_one, tell
from multiflora_platform.exit_codes import ExitCode

COLUMNS = ("id", "url", "events", "disabled", "description")
DELIVERIES = {
    "id": "id",
    "type": "type",
    "state": "state",
    "attempts": "tries",
    "last_status": "status",
    "last_error": "error",
    "created_at": "created",
    "next_attempt_at": "next try",
}


def add_parser(commands: Any) -> None:
    actions = Actions(commands, "webhooks", "events sent to other servers")
    creating = actions.add("create", create, "tell a URL of events; the secret is shown once")
    creating.add_argument("target", metavar="URL")
    actions.add("ls", ls, "list webhooks")
    changing = _with_id(actions, "set", change, "change a webhook")
    changing.add_argument("--target", metavar="URL")
    for parser in (creating, changing):
        parser.add_argument("--event", action="append", help="pattern of types, such as 'alias.*'; repeatable")
        parser.add_argument("--description")
    switch = changing.add_mutually_exclusive_group()
    switch.add_argument("--disable", dest="disabled", action="store_const", const=True)
    switch.add_argument("--enable", dest="disabled", action="store_const", const=False)
    _with_id(actions, "show", show, "one webhook")
    _with_id(actions, "test", test, "send a test message now")
    _with_id(actions, "deliveries", deliveries, "what was sent, newest first").add_argument(
        "--limit", type=int, default=50
    )
    _with_id(actions, "redeliver", redeliver, "send a delivery once more").add_argument("delivery", type=int)
    _with_id(actions, "rotate", rotate, "another secret, shown once")
    _with_id(actions, "rm", rm, "delete a webhook")


def _with_id(actions: Actions, name: str, run: Run, help_text: str) -> argparse.ArgumentParser:
    parser = actions.add(name, run, help_text)
    parser.add_argument("id", help="as `webhooks ls` shows it")
    return parser


def _path(arguments: argparse.Namespace) -> str:
    return f"/webhooks/{quoted(arguments.id)}"


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    fields = {"url": arguments.target, "events": arguments.event, "description": arguments.description}
    return {field: value for field, value in fields.items() if value is not None}


def create(arguments: argparse.Namespace) -> int:
    return show_answer(arguments, "POST", "/webhooks", json=_given(arguments))


def ls(arguments: argparse.Namespace) -> int:
    emit(arguments.output, request(arguments, "GET", "/webhooks").json()["items"], COLUMNS)
    return 0


def change(arguments: argparse.Namespace) -> int:
    fields = _given(arguments)
    if arguments.disabled is not None:
        fields["disabled"] = arguments.disabled
    return patch(arguments, _path(arguments), fields, "--help lists what can be")


def show(arguments: argparse.Namespace) -> int:
    return show_answer(arguments, "GET", _path(arguments))


def test(arguments: argparse.Namespace) -> int:
    """Exit code 1 when the receiver did not take it."""
    delivery = request(arguments, "POST", f"{_path(arguments)}:test").json()
    emit_one(arguments.output, delivery)
    return ExitCode.OK if delivery["state"] == "delivered" else ExitCode.FAILURE


def deliveries(arguments: argparse.Namespace) -> int:
    params = {"limit": arguments.limit}
    answer = request(arguments, "GET", f"{_path(arguments)}/deliveries", params=params)
    emit(arguments.output, answer.json()["items"], DELIVERIES)
    return 0


def redeliver(arguments: argparse.Namespace) -> int:
    path = f"{_path(arguments)}/deliveries/{arguments.delivery}:redeliver"
    return show_answer(arguments, "POST", path)


def rotate(arguments: argparse.Namespace) -> int:
    return show_answer(arguments, "POST", f"{_path(arguments)}:rotate")


def rm(arguments: argparse.Namespace) -> int:
    request(arguments, "DELETE", _path(arguments))
    tell(arguments.output, "deleted", arguments.id)
    return 0
