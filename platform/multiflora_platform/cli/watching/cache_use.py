"""`multiflora cache show|misses|drift|explain|warm`: what the prefix cache has and lacks."""

from __future__ import annotations

import argparse
from typing import Any

from multiflora_platform.cli.actions import server_command, show_answer
from multiflora_platform.cli.http import request
from multiflora_platform.cli.terminal.cells import moment
from multiflora_platform.cli.terminal.files import add_prompt_flags, prompt_from
from multiflora_platform.cli.terminal.output import emit, emit_one

MISSES = {
    "at": "at",
    "model": "model",
    "reason": "reason",
    "prompt_tokens": "prompt",
    "cached_tokens": "cached",
    "detail": "detail",
    "request_id": "request",
}
DRIFT = ("tenant", "model", "kind", "share", "lost_tokens", "advice", "example", "role", "position")
SAVINGS = {
    "adapter": "adapter",
    "tokens": "tokens",
    "device_seconds": "device s",
    "tokens_again": "computed again",
    "seconds_again": "seconds again",
    "saved": "saved",
    "currency": "currency",
}


def add_actions(cache: Any) -> None:
    """cache: the actions of `multiflora cache`."""
    showing = server_command(cache, "show", show, "how full it is, what it found, and what that saved by adapter")
    server_command(cache, "misses", misses, "the last prompts of which it had less than it could have, and why")
    server_command(cache, "drift", drift, "what keeps changing in tenants' prompts, the costliest first")
    explaining = server_command(cache, "explain", explain, "why it has no more of a prompt; nothing is generated")
    explaining.add_argument("--compare", metavar="REQUEST", help="an earlier request's id; default: the most alike")
    warming = server_command(cache, "warm", warm, "compute a prompt now, so that requests find it")
    warming.add_argument("--tenant", help="whose requests find it; default: admins'")
    for parser in (explaining, warming):
        parser.add_argument("model", help="as in a request")
        add_prompt_flags(parser)
    showing.add_argument(
        "--model", metavar="NAME", help="one of several base models; default: the server's default one"
    )


def show(arguments: argparse.Namespace) -> int:
    asked = {} if arguments.model is None else {"model": arguments.model}
    found = request(arguments, "GET", "/cache", params=asked).json()
    if arguments.output == "json":
        emit_one("json", found)
        return 0
    counts = ("blocks", "free", "cached", "block_size", "bytes_per_block", "queries_tokens", "hits_tokens", "evictions")
    rate = found["hits_tokens"] / found["queries_tokens"] if found["queries_tokens"] else None
    emit_one("table", {**{name: found[name] for name in counts}, "hit_rate": rate})
    print()
    emit("table", [{**row, **(row.get("money") or {})} for row in found["savings"]], SAVINGS)
    return 0


def misses(arguments: argparse.Namespace) -> int:
    items = request(arguments, "GET", "/cache/misses").json()["items"]
    if arguments.output == "table":
        items = [{**item, "at": moment(item["at"])} for item in items]
    emit(arguments.output, items, MISSES)
    return 0


def drift(arguments: argparse.Namespace) -> int:
    emit(arguments.output, request(arguments, "GET", "/cache/drift").json()["items"], DRIFT)
    return 0


def explain(arguments: argparse.Namespace) -> int:
    compared = {} if arguments.compare is None else {"compare": arguments.compare}
    body = {"model": arguments.model, **prompt_from(arguments), **compared}
    return show_answer(arguments, "POST", "/cache:explain", json=body)


def warm(arguments: argparse.Namespace) -> int:
    owner = {} if arguments.tenant is None else {"tenant": arguments.tenant}
    return show_answer(
        arguments, "POST", "/cache:warm", json={"model": arguments.model, **prompt_from(arguments), **owner}
    )
