"""`multiflora usage`: what tenants used, over the server's REST API."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from multiflora_platform.cli.actions import server_command
from multiflora_platform.cli.http import every
from multiflora_platform.cli.terminal.output import emit

GROUPS = ("day", "tenant", "adapter")
ALL_GROUPS = (*GROUPS, "key")
TOKENS = {"prompt_tokens": "prompt", "cached_tokens": "cached", "completion_tokens": "answer"}
PARTS = {"uncached_tokens": "uncached", "cache_write_tokens": "written"}
MONEY_PARTS = ("saved", "device", "cached", "stored", "computed_again")


def add_parser(commands: Any) -> None:
    parser = server_command(commands, "usage", run, "tokens and device time by day, tenant, adapter and key")
    parser.add_argument("--tenant")
    parser.add_argument("--adapter")
    parser.add_argument("--key", metavar="ID", help="of one key alone")
    parser.add_argument("--since", metavar="DAY", help="as 2026-01-31, of UTC")
    parser.add_argument("--until", metavar="DAY", help="the last day that counts")
    parser.add_argument("--by", action="append", choices=ALL_GROUPS, help="sum by these columns; repeatable")


def run(arguments: argparse.Namespace) -> int:
    groups = [group for group in ALL_GROUPS if group in (arguments.by or GROUPS)]
    filters = {name: getattr(arguments, name) for name in ("tenant", "adapter", "key", "since", "until")}
    params = {name: value for name, value in filters.items() if value is not None}
    rows = list(every(arguments, "/usage", {**params, "group_by": groups}))
    currency = next((row["money"]["currency"] for row in rows if "money" in row), None)
    if arguments.output == "table":
        rows = [{**row, "device_seconds": row["device_ms"] / 1000, **_money(row)} for row in rows]
    cost, parts = ({}, {}) if currency is None else ({"cost": f"cost {currency}"}, _named(MONEY_PARTS))
    counts = {"requests": "requests", **TOKENS, **cost, "device_seconds": "device s"}
    columns = [*groups, *(["key_name"] if "key" in groups else [])]
    emit(arguments.output, rows, {**_named(columns), **counts, **PARTS, **parts})
    return 0


def _named(columns: Sequence[str]) -> dict[str, str]:
    return {column: column.replace("_", " ") for column in columns}


def _money(row: dict[str, Any]) -> dict[str, Any]:
    """`cost`: of the device, of cached tokens and of stored ones; what was saved is no part of it."""
    money = row.get("money")
    return {} if money is None else {**money, "cost": money["device"] + money["cached"] + money["stored"]}
