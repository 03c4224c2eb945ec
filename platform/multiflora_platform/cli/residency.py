"""`multiflora adapters load|unload|pin|unpin`: where an adapter's weights are, over the server's REST API."""

from __future__ import annotations

import argparse
from typing import Any

from multiflora_platform.cli.actions import server_command, show_answer
from multiflora_platform.cli.http import quoted

ACTIONS = {
    "load": "bring it into a slot now, with its warm-up prompts",
    "unload": "take it out of memory",
    "pin": "load it and never evict it",
    "unpin": "it may be evicted again",
}


def add_actions(adapters: Any) -> None:
    """adapters: the actions of `multiflora adapters`."""
    for name, help_text in ACTIONS.items():
        parser = server_command(adapters, name, run, help_text)
        parser.add_argument("name", help="the adapter's name")
        parser.add_argument("version", type=int, nargs="?", help="default: what the name means")


def run(arguments: argparse.Namespace) -> int:
    params = {"version": arguments.version} if arguments.version else {}
    path = f"/adapters/{quoted(arguments.name)}:{arguments.action}"
    return show_answer(arguments, "POST", path, params=params)
