"""`multiflora versions ls|show|set|card|rm|restore|purge`, over the server's REST API."""

from __future__ import annotations

import argparse
from typing import Any

from multiflora_platform.cli.actions import Actions, Run, patch, show_answer
from multiflora_platform.cli.http import every, quoted, request
from multiflora_platform.cli.terminal.details import add_lineage_flags, lineage, metrics
from multiflora_platform.cli.terminal.output import emit, emit_one, tell

COLUMNS = ("adapter", "version", "state", "digest", "created_at", "description", "tags", "created_by")
STATES = ("pending", "fetching", "validating", "ready", "rejected", "archived")
FILTERS = ("q", "tag", "state", "dataset", "training_run", "parent", "digest", "deleted")


def add_parser(commands: Any) -> None:
    actions = Actions(commands, "versions", "versions of adapters")
    listing = actions.add("ls", ls, "list versions, newest first; without a name those of all adapters")
    listing.add_argument("name", nargs="?", help="an adapter's name")
    listing.add_argument("-q", help="only descriptions with this text")
    listing.add_argument("--tag")
    listing.add_argument("--state", choices=STATES)
    listing.add_argument("--dataset", help="only those trained on it")
    listing.add_argument("--training-run", metavar="ID")
    listing.add_argument("--parent", metavar="VERSION", help="only those trained further from it")
    listing.add_argument("--digest")
    listing.add_argument("--deleted", action="store_true", help="with those that can be restored")
    _version(actions, "show", show, "one version")
    editing = _version(actions, "set", change, "change what is said about a version")
    editing.add_argument("--description")
    editing.add_argument("--tag", action="append", dest="tags", help="all its tags; repeatable")
    add_lineage_flags(editing)
    _version(actions, "card", card, "its model card, as Markdown")
    _version(actions, "rm", rm, "delete a version that no alias names; it can be restored")
    _version(actions, "restore", restore, "take back a deletion")
    _version(actions, "purge", purge, "delete it for good, with the files that no other version has")


def _version(actions: Actions, name: str, run: Run, help_text: str) -> argparse.ArgumentParser:
    parser = actions.add(name, run, help_text)
    parser.add_argument("name", help="the adapter's name")
    parser.add_argument("version", type=int)
    return parser


def _path(arguments: argparse.Namespace) -> str:
    return f"/adapters/{quoted(arguments.name)}/versions/{arguments.version}"


def ls(arguments: argparse.Namespace) -> int:
    wanted = {name: value for name in FILTERS if (value := getattr(arguments, name))}
    path = f"/adapters/{quoted(arguments.name)}/versions" if arguments.name else "/versions"
    emit(arguments.output, list(every(arguments, path, wanted)), COLUMNS)
    return 0


def show(arguments: argparse.Namespace) -> int:
    return show_answer(arguments, "GET", _path(arguments))


def change(arguments: argparse.Namespace) -> int:
    fields = {"description": arguments.description, "tags": arguments.tags}
    body: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
    headers: dict[str, str] = {}
    given = {"lineage": lineage(arguments), "metrics": metrics(arguments)}
    if any(given.values()):
        present = request(arguments, "GET", _path(arguments))
        # The API replaces each of them whole.
        body |= {name: present.json()[name] | fields for name, fields in given.items() if fields}
        headers = {"If-Match": present.headers["etag"]}
    return patch(arguments, _path(arguments), body, "--help lists what can be", headers=headers)


def card(arguments: argparse.Namespace) -> int:
    found = request(arguments, "GET", f"{_path(arguments)}/card").json()
    if arguments.output == "json":
        emit_one("json", found)
    else:
        print(found["markdown"])
    return 0


def rm(arguments: argparse.Namespace) -> int:
    request(arguments, "DELETE", _path(arguments))
    tell(arguments.output, "deleted", f"{arguments.name}@{arguments.version}")
    return 0


def restore(arguments: argparse.Namespace) -> int:
    return show_answer(arguments, "POST", f"{_path(arguments)}:restore")


def purge(arguments: argparse.Namespace) -> int:
    request(arguments, "POST", f"{_path(arguments)}:purge")
    tell(arguments.output, "purged", f"{arguments.name}@{arguments.version}")
    return 0
