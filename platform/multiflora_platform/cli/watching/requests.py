"""`multiflora requests ls|show`: the last requests of a server in numbers, over its REST API."""

from __future__ import annotations

import argparse
from typing import Any

from multiflora_platform.cli.actions import Actions, show_answer
from multiflora_platform.cli.http import quoted, request
from multiflora_platform.cli.terminal.cells import moment
from multiflora_platform.cli.terminal.output import emit

COLUMNS = {
    "at": "at",
    "id": "id",
    "model": "model",
    "status": "status",
    "prompt_tokens": "prompt",
    "cached_tokens": "cached",
    "tenant": "tenant",
    "total_seconds": "total s",
    "miss_reason": "miss",
    "code": "code",
    "completion_tokens": "answer",
    "ttft": "ttft s",
    "queue_seconds": "queue s",
    "device_seconds": "device s",
    "finish_reason": "end",
}
FILTERS = ("model", "tenant", "status")


def add_parser(commands: Any) -> None:
    actions = Actions(commands, "requests", "the last requests: who, which version, how long, why not cached")
    listing = actions.add("ls", ls, "newest first")
    listing.add_argument("--model", help="as it was asked for")
    listing.add_argument("--tenant", help="whose, with an admin key")
    listing.add_argument("--status", type=int, help="such as 200 or 429")
    listing.add_argument("--limit", type=int, default=20, help="at most 1000; default: 20")
    actions.add("show", show, "one, with its stages").add_argument("id")


def ls(arguments: argparse.Namespace) -> int:
    wanted = {name: value for name in FILTERS if (value := getattr(arguments, name)) is not None}
    items = request(arguments, "GET", "/requests", params={**wanted, "limit": arguments.limit}).json()["items"]
    if arguments.output == "table":
        items = [{**item, "at": moment(item["at"]), "model": _answered_by(item)} for item in items]
    emit(arguments.output, items, COLUMNS)
    return 0


def show(arguments: argparse.Namespace) -> int:
    return show_answer(arguments, "GET", f"/requests/{quoted(arguments.id)}", brief=_in_words)


def _answered_by(item: dict[str, Any]) -> str:
    """The version that answered; what was asked for, where none did."""
    return str(item["model"]) if item["version"] is None else f"{item['adapter']}@{item['version']}"


def _in_words(item: dict[str, Any]) -> dict[str, Any]:
    """Stages as what they took, which the timeline draws."""
    return {**{name: value for name, value in item.items() if name != "timeline"}, "at": moment(item["at"])}
