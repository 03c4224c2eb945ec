"""`multiflora tenants create|ls|show|set|budgets`, over the server's REST API."""

from __future__ import annotations

import argparse
from typing import Any

from multiflora_platform.cli.actions import Actions, patch, show_answer
from multiflora_platform.cli.http import quoted, request
from multiflora_platform.cli.terminal.output import emit

COLUMNS = {
    "name": "name",
    "allowed_adapters": "adapters",
    "requests_per_minute": "rpm",
    "tokens_per_minute": "tpm",
    "max_concurrent_requests": "concurrent",
    "kv_share": "kv share",
    "priority": "priority",
    "disabled": "disabled",
    "shared_prefixes": "shared prefixes",
}
BUDGETS = ("budget_tokens_per_day", "budget_tokens_per_month", "budget_money_per_day", "budget_money_per_month")
BUDGET_COLUMNS = ("tenant", "unit", "period", "amount", "used", "currency", "begins_anew_at")
NO_LIMIT = "none"


def add_parser(commands: Any) -> None:
    actions = Actions(commands, "tenants", "tenants and their limits")
    _add_limits(actions.add("create", create, "make a tenant"))
    actions.add("ls", ls, "list tenants")
    actions.add("show", show, "one tenant").add_argument("name")
    asking = actions.add("budgets", budgets, "what is used of budgets")
    asking.add_argument("name", nargs="?", help="only this tenant's")
    changing = actions.add("set", change, "change a tenant's limits; `none` lifts one")
    _add_limits(changing)
    switch = changing.add_mutually_exclusive_group()
    switch.add_argument("--disable", dest="disabled", action="store_const", const=True, help="refuse all its keys")
    switch.add_argument("--enable", dest="disabled", action="store_const", const=False)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name")
    parser.add_argument("--allow", action="append", dest="allowed_adapters", metavar="PATTERN", help="repeatable")
    for flag, field in (
        ("--rpm", "requests_per_minute"),
        ("--tpm", "tokens_per_minute"),
        ("--concurrent", "max_concurrent_requests"),
    ):
        parser.add_argument(flag, dest=field, type=_limit, metavar="N", help=field.replace("_", " "))
    for field in BUDGETS:
        flag, kind = f"--{field.replace('_', '-')}", _limit if "tokens" in field else _money
        parser.add_argument(flag, dest=field, type=kind, metavar="N", help=f"{field.replace('_', ' ')} of UTC")
    parser.add_argument("--kv-share", type=float, metavar="PART", help="of all KV blocks, above 0 and at most 1")
    parser.add_argument("--priority", choices=("high", "normal", "low"))
    parser.add_argument("--shared-prefixes", action=argparse.BooleanOptionalAction, default=None)


def _limit(text: str) -> int | str:
    return text if text == NO_LIMIT else int(text)


def _money(text: str) -> float | str:
    return text if text == NO_LIMIT else float(text)


def create(arguments: argparse.Namespace) -> int:
    return show_answer(arguments, "POST", "/tenants", json={"name": arguments.name, **_given(arguments)})


def ls(arguments: argparse.Namespace) -> int:
    emit(arguments.output, request(arguments, "GET", "/tenants").json()["items"], COLUMNS)
    return 0


def show(arguments: argparse.Namespace) -> int:
    return show_answer(arguments, "GET", f"/tenants/{quoted(arguments.name)}")


def budgets(arguments: argparse.Namespace) -> int:
    asked = {"tenant": arguments.name} if arguments.name else {}
    found = request(arguments, "GET", "/budgets", params=asked).json()["items"]
    if arguments.name and not found:
        request(arguments, "GET", f"/tenants/{quoted(arguments.name)}")  # a misspelt name is no tenant without budgets
    emit(arguments.output, found, BUDGET_COLUMNS)
    return 0


def change(arguments: argparse.Namespace) -> int:
    fields = _given(arguments)
    if arguments.disabled is not None:
        fields["disabled"] = arguments.disabled
    return patch(arguments, f"/tenants/{quoted(arguments.name)}", fields, "--help lists the limits")


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    fields = (*COLUMNS, *BUDGETS)
    given = {field: getattr(arguments, field, None) for field in fields if field not in ("name", "disabled")}
    return {field: None if value == NO_LIMIT else value for field, value in given.items() if value is not None}
