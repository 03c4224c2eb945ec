"""`multiflora keys create|ls|revoke`, over the server's REST API."""

from __future__ import annotations

import argparse
from typing import Any
from urllib.parse import quote

from multiflora_platform.cli.http import add_server_flags, request
from multiflora_platform.cli.output import add_output_flag, emit, emit_one


def add_parser(commands: Any) -> None:
    group = commands.add_parser("keys", help="API keys").add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, run: Any, help_text: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = group.add_parser(name, help=help_text)
        add_server_flags(parser)
        add_output_flag(parser)
        parser.set_defaults(run=run)
        return parser

    creating = action("create", create, "make a key; it is shown once")
    creating.add_argument("name", help="what the key is for")
    creating.add_argument("--role", choices=("admin", "tenant"), default="tenant")
    creating.add_argument("--tenant", help="the tenant that owns the key; made when it is new")
    action("ls", ls, "list keys")
    action("revoke", revoke, "revoke a key").add_argument("id", help="as `keys ls` shows it")


def create(arguments: argparse.Namespace) -> int:
    body = {"name": arguments.name, "role": arguments.role}
    if arguments.role == "tenant":
        body["tenant"] = arguments.tenant or arguments.name
        known = {tenant["name"] for tenant in request(arguments, "GET", "/tenants").json()["items"]}
        if body["tenant"] not in known:
            request(arguments, "POST", "/tenants", json={"name": body["tenant"]})
    emit_one(arguments.output, request(arguments, "POST", "/keys", json=body).json())
    return 0


def ls(arguments: argparse.Namespace) -> int:
    items = request(arguments, "GET", "/keys").json()["items"]
    emit(arguments.output, items, ("id", "name", "role", "tenant", "created_at", "last_used_at", "revoked_at"))
    return 0


def revoke(arguments: argparse.Namespace) -> int:
    request(arguments, "DELETE", f"/keys/{quote(arguments.id, safe='')}")
    print(f"revoked {arguments.id}")
    return 0
