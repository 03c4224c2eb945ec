"""`multiflora keys create|ls|show|rotate|revoke`, over the server's REST API."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from typing import Any

from multiflora_platform.auth.scopes import SCOPES
from multiflora_platform.cli.actions import Actions, show_answer
from multiflora_platform.cli.http import quoted, request
from multiflora_platform.cli.terminal.durations import seconds
from multiflora_platform.cli.terminal.output import emit, tell

COLUMNS = {
    "id": "id",
    "name": "name",
    "role": "role",
    "tenant": "tenant",
    "last_used_at": "last used",
    "revoked_at": "revoked",
    "expires_at": "expires",
    "prefix": "prefix",
    "scopes": "scopes",
    "created_at": "created",
}


def add_parser(commands: Any) -> None:
    actions = Actions(commands, "keys", "API keys")
    creating = actions.add("create", create, "make a key; it is shown once")
    creating.add_argument("name", help="what the key is for")
    creating.add_argument("--role", choices=("admin", "tenant"), default="tenant")
    creating.add_argument("--tenant", help="the tenant that owns the key; default: NAME, made when it is new")
    creating.add_argument("--scope", action="append", choices=SCOPES, help="narrow it; repeatable")
    creating.add_argument("--expires-in", type=seconds, metavar="TIME", help="such as 90d, 12h, 30m")
    actions.add("ls", ls, "list keys").add_argument("--tenant", help="only this tenant's")
    for name, run, help_text in (("show", show, "show a key"), ("revoke", revoke, "revoke a key")):
        actions.add(name, run, help_text).add_argument("id", help="as `keys ls` shows it")
    rotating = actions.add("rotate", rotate, "make a key's successor; it is shown once")
    rotating.add_argument("id", help="as `keys ls` shows it")
    rotating.add_argument(
        "--overlap", type=seconds, default=3600, metavar="TIME", help="how long both work; default 1h"
    )


def create(arguments: argparse.Namespace) -> int:
    body: dict[str, Any] = {"name": arguments.name, "role": arguments.role, "scopes": arguments.scope}
    if arguments.expires_in is not None:
        body["expires_at"] = (datetime.now(UTC) + timedelta(seconds=arguments.expires_in)).isoformat()
    if arguments.role == "tenant" or arguments.tenant:  # an admin key with a tenant is the server's to refuse
        body["tenant"] = arguments.tenant or _own_tenant(arguments)
    return show_answer(arguments, "POST", "/keys", json=body)


def _own_tenant(arguments: argparse.Namespace) -> str:
    """The tenant with the key's name, made when it is new. One that --tenant names is never made: a misspelt name would
    be a tenant without limits."""
    known = {tenant["name"] for tenant in request(arguments, "GET", "/tenants").json()["items"]}
    if arguments.name not in known:
        request(arguments, "POST", "/tenants", json={"name": arguments.name})
    return str(arguments.name)


def ls(arguments: argparse.Namespace) -> int:
    params = {"tenant": arguments.tenant} if arguments.tenant else {}
    emit(arguments.output, request(arguments, "GET", "/keys", params=params).json()["items"], COLUMNS)
    return 0


def show(arguments: argparse.Namespace) -> int:
    return show_answer(arguments, "GET", f"/keys/{quoted(arguments.id)}")


def rotate(arguments: argparse.Namespace) -> int:
    body = {"overlap_seconds": arguments.overlap}
    return show_answer(arguments, "POST", f"/keys/{quoted(arguments.id)}:rotate", json=body)


def revoke(arguments: argparse.Namespace) -> int:
    request(arguments, "DELETE", f"/keys/{quoted(arguments.id)}")
    tell(arguments.output, "revoked", arguments.id)
    return 0
