"""`multiflora usage`: what tenants used, over the server's REST API."""

from __future__ import annotations

import argparse
from typing import Any

from multiflora_platform.cli.actions import server_command
from multiflora_platform.cli.http import every
from multiflora_platform.cli.terminal.output import emit

GROUPS = ("day", "tenant", "adapter")
PARTS = ("cached_tokens", "cache_write_tokens", "uncached_tokens")
COUNTS = ("requests", "prompt_tokens", *PARTS, "completion_tokens", "device_ms")

MONEY = ("currency", "device", "cached", "stored", "saved", "computed_again")


def add_parser(commands: Any) -> None:
    parser = server_command(commands, "usage", run, "tokens and device time by day, tenant and adapter")
    parser.add_argument("--tenant")
    parser.add_argument("--adapter")
    parser.add_argument("--since", metavar="DAY", help="as 2026-01-31, of UTC")
    parser.add_argument("--until", metavar="DAY", help="the last day that counts")
    parser.add_argument("--by", action="append", choices=GROUPS, help="sum by fewer columns; repeatable")


def run(arguments: argparse.Namespace) -> int:
    groups = [group for group in GROUPS if group in (arguments.by or GROUPS)]
    filters = {name: getattr(arguments, name) for name in ("tenant", "adapter", "since", "until")}
    params = {name: value for name, value in filters.items() if value is not None}
    rows = list(every(arguments, "/usage", {**params, "group_by": groups}))
    if arguments.output == "table" and any("money" in row for row in rows):
        emit("table", [{**row, **row.get("money", {})} for row in rows], (*groups, *COUNTS, *MONEY))
    else:
        emit(arguments.output, rows, (*groups, *COUNTS))
    return 0
