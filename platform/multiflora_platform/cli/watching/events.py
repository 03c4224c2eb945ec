"""`multiflora alerts`, `events`, `audit` and `replicas`: what happens on a server, over its REST API."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from typing import Any

from multiflora_platform.cli.actions import server_command
from multiflora_platform.cli.http import request, server_events
from multiflora_platform.cli.terminal.cells import moment
from multiflora_platform.cli.terminal.output import emit

ALERTS = ("severity", "since", "title", "next_step", "detail", "id")
EVENTS = ("id", "at", "type", "adapter", "payload")
AUDIT = ("at", "action", "target", "actor", "detail", "id")
REPLICAS = {
    "id": "id",
    "group": "model",
    "state": "state",
    "running": "running",
    "waiting": "waiting",
    "free_blocks": "free blocks",
    "adapters": "adapters",
    "host": "host",
    "pid": "pid",
}


def add_parser(commands: Any) -> None:
    server_command(commands, "alerts", run_alerts, "what to look at now, the worst first")
    events = server_command(commands, "events", run_events, "what happened, oldest first")
    events.add_argument("--after", type=int, default=0, metavar="ID", help="only later ones")
    events.add_argument("--limit", type=int, default=100)
    events.add_argument(
        "--follow", action="store_true", help="go on with what happens from now on; a line of JSON each"
    )
    audit = server_command(commands, "audit", run_audit, "who did what, newest first")
    audit.add_argument("--limit", type=int, default=100)
    audit.add_argument("--adapter", help="only what was done to it, its versions and its aliases")
    server_command(commands, "replicas", run_replicas, "engine processes and the adapters that they hold")


def run_alerts(arguments: argparse.Namespace) -> int:
    alerts = request(arguments, "GET", "/alerts").json()["items"]
    if arguments.output == "table":
        alerts = [{**alert, "since": moment(alert["since"])} for alert in alerts]
    emit(arguments.output, alerts, ALERTS)
    if not alerts:
        print("nothing needs attention", file=sys.stderr)
    return 0


def run_events(arguments: argparse.Namespace) -> int:
    if arguments.follow:
        return _follow(arguments)
    params = {"cursor": arguments.after, "limit": arguments.limit}
    emit(arguments.output, request(arguments, "GET", "/events", params=params).json()["items"], EVENTS)
    return 0


def _follow(arguments: argparse.Namespace) -> int:
    for event in server_events(arguments, "/events", arguments.after):
        sys.stdout.write(json.dumps(event, ensure_ascii=False) + "\n")
        sys.stdout.flush()  # a program that reads the pipe wants each event when it happens
    return 0


def run_audit(arguments: argparse.Namespace) -> int:
    params = {"limit": arguments.limit} | ({"adapter": arguments.adapter} if arguments.adapter else {})
    emit(arguments.output, request(arguments, "GET", "/audit", params=params).json()["items"], AUDIT)
    return 0


def run_replicas(arguments: argparse.Namespace) -> int:
    replicas = request(arguments, "GET", "/replicas").json()["items"]
    if arguments.output == "table":
        replicas = [{**replica, "adapters": _residencies(replica["adapters"])} for replica in replicas]
    emit(arguments.output, replicas, REPLICAS)
    return 0


def _residencies(adapters: list[dict[str, Any]]) -> str:
    """As `6 slot, 2 cpu`."""
    return ", ".join(f"{count} {place}" for place, count in Counter(one["residency"] for one in adapters).items())
