"""`multiflora adapters rollout start|show|ls|pairs|set|promote|abort`, and an alias's split, history and protection."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from multiflora_platform.cli.actions import Run, patch, server_command, show_answer
from multiflora_platform.cli.http import every, quoted, request
from multiflora_platform.cli.terminal.cells import target
from multiflora_platform.cli.terminal.output import emit
from multiflora_platform.exit_codes import CommandError

COLUMNS = {
    "id": "id",
    "adapter": "adapter",
    "alias": "alias",
    "candidate": "candidate",
    "state": "state",
    "reason": "reason",
    "percent": "percent",
    "stable": "stable",
    "ended_at": "ended",
    "created_at": "started",
    "created_by": "by",
    "why": "why",
    "steps": "steps",
    "shadow_percent": "shadow",
}
OBSERVED = ("stable_observed", "candidate_observed", "shadow_observed")
# What a person asks first.
FIRST = ("state", "reason", "candidate", "stable", *OBSERVED)
PAIRS = ("id", "at", "tenant", "question", "stable", "candidate", "agreement")
_SHOWN = 60
_DEFAULT = "default: `default`"
FIELDS = (
    "percent",
    "shadow_percent",
    "max_error_rate",
    "max_p95_seconds",
    "max_p95_ratio",
    "min_samples",
    "steps",
    "step_seconds",
)


def add_actions(adapters: Any) -> None:
    """adapters: the actions of `multiflora adapters`."""
    parser = adapters.add_parser("rollout", help="a candidate on its way to an alias's users")
    group = parser.add_subparsers(dest="step", metavar="STEP", required=True)
    starting = _step(group, "start", start, "give users, or copies of requests, to a candidate")
    starting.add_argument("candidate", type=int, help="a version")
    starting.add_argument("--why", default="", help="it is tried; for people")
    for one in (starting, _step(group, "set", change, "other shares or bounds")):
        one.add_argument("--percent", type=int, help="of the alias's users")
        one.add_argument("--shadow", type=int, dest="shadow_percent", help="percent of the others' requests to copy")
        one.add_argument(
            "--max-error-rate",
            type=float,
            help="0 to 1; the candidate is rolled back when its share of errors is so much above the stable version's",
        )
        one.add_argument("--max-p95-seconds", type=float)
        one.add_argument("--max-p95-ratio", type=float, help="to the stable version's P95")
        one.add_argument("--min-samples", type=int, help="requests before errors and latency are judged")
        one.add_argument("--steps", type=_shares, metavar="1,10,50", help="shares that it goes through by itself")
        one.add_argument("--step-seconds", type=float, help="at each of the steps, at least")
    _step(group, "show", show, "the running one, or the last")
    listing = server_command(group, "ls", ls, "those of an alias, or all that run or ran, newest first")
    listing.add_argument("name", nargs="?", help="the adapter's name; default: all adapters")
    listing.add_argument("alias", nargs="?", default="default", help=_DEFAULT)
    differing = _step(group, "pairs", pairs, "prompts that both versions answered, and not alike; newest first")
    differing.add_argument("--rollout", type=int, help="by its id, as `ls` tells it; default: the newest")
    promoting = _step(group, "promote", promote, "the candidate for everybody; asks when few requests have tried it")
    promoting.add_argument("-y", "--yes", action="store_true", help="do not ask")
    _step(group, "abort", abort, "the stable version for everybody")
    _step(adapters, "split", split, "how the versions of an alias that is split by hand do")
    _step(adapters, "history", history, "where an alias pointed, newest first")
    _step(adapters, "protect", protect, "only admins move the alias")
    _step(adapters, "unprotect", unprotect, "its owner may move the alias again")


def _step(group: Any, name: str, run: Run, help_text: str) -> argparse.ArgumentParser:
    parser = server_command(group, name, run, help_text)
    parser.add_argument("name", help="the adapter's name")
    if name == "start":  # a version follows
        parser.add_argument("alias")
    else:
        parser.add_argument("alias", nargs="?", default="default", help=_DEFAULT)
    return parser


def _alias(arguments: argparse.Namespace) -> str:
    return f"/adapters/{quoted(arguments.name)}/aliases/{quoted(arguments.alias)}"


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    return {field: value for field in FIELDS if (value := getattr(arguments, field)) is not None}


def start(arguments: argparse.Namespace) -> int:
    headers = {"If-Match": request(arguments, "GET", _alias(arguments)).headers["etag"]}
    body = {"candidate": arguments.candidate, "why": arguments.why, **_given(arguments)}
    return show_answer(arguments, "POST", f"{_alias(arguments)}/rollout", json=body, headers=headers)


def change(arguments: argparse.Namespace) -> int:
    return patch(arguments, f"{_alias(arguments)}/rollout", _given(arguments), "--help lists shares and bounds")


def show(arguments: argparse.Namespace) -> int:
    return show_answer(arguments, "GET", f"{_alias(arguments)}/rollout", brief=_first)


def _first(rollout: dict[str, Any]) -> dict[str, Any]:
    """The outcome, and what it rests on, before the settings."""
    return {name: rollout[name] for name in (*FIRST, *(name for name in rollout if name not in FIRST))}


def ls(arguments: argparse.Namespace) -> int:
    path = "/rollouts" if arguments.name is None else f"{_alias(arguments)}/rollouts"
    emit(arguments.output, list(every(arguments, path, {})), COLUMNS)
    return 0


def pairs(arguments: argparse.Namespace) -> int:
    id = arguments.rollout or request(arguments, "GET", f"{_alias(arguments)}/rollout").json()["id"]
    path = f"{_alias(arguments)}/rollouts/{id}/pairs"
    page = request(arguments, "GET", path, params={"limit": 1000}).json()
    if not page["kept"]:
        raise CommandError("the server keeps no texts; start it with --log-bodies")
    short = arguments.output == "table"
    emit(arguments.output, [_shortened(pair) if short else pair for pair in page["items"]], PAIRS)
    return 0


def _shortened(pair: dict[str, Any]) -> dict[str, Any]:
    question = pair["prompt"] or str(pair["messages"][-1].get("content"))
    texts = {"question": question, "stable": pair["stable"], "candidate": pair["candidate"]}
    return {**pair, **{field: text[:_SHOWN] for field, text in texts.items()}}


def _shares(text: str) -> list[int]:
    """Raises ArgumentTypeError."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} are no shares; write whole percentages, such as 1,10,50")
    return [int(part) for part in parts]


def promote(arguments: argparse.Namespace) -> int:
    """A person is asked when the candidate has had fewer requests than the rollout wants to see; a script is not."""
    if not arguments.yes and sys.stdin.isatty():
        _confirm(request(arguments, "GET", f"{_alias(arguments)}/rollout").json())
    return show_answer(arguments, "POST", f"{_alias(arguments)}/rollout:promote")


def _confirm(rollout: dict[str, Any]) -> None:
    """rollout: the alias's newest. Raises CommandError."""
    seen = (rollout["candidate_observed"] or {"requests": 0})["requests"]
    if rollout["state"] != "running" or seen >= rollout["min_samples"]:
        return
    told = f"Version {rollout['candidate']} has had {seen} of {rollout['min_samples']} requests. Promote it? [y/N] "
    if input(told).strip().lower() not in ("y", "yes"):
        raise CommandError("not promoted; --yes does not ask")


def abort(arguments: argparse.Namespace) -> int:
    return show_answer(arguments, "POST", f"{_alias(arguments)}/rollout:abort")


def split(arguments: argparse.Namespace) -> int:
    observed = request(arguments, "GET", f"{_alias(arguments)}/split").json()
    rows = [{**arm, **arm["observed"]} for arm in observed["arms"]]
    emit(arguments.output, rows, ("version", "percent", "requests", "errors", "p50_seconds", "p95_seconds", "is_worse"))
    return 0


def history(arguments: argparse.Namespace) -> int:
    rows = list(every(arguments, f"{_alias(arguments)}/history", {}))
    if arguments.output == "table":
        rows = [{**row, "target": target(row["target"])} for row in rows]
    emit(arguments.output, rows, ("at", "target", "actor"))
    return 0


def protect(arguments: argparse.Namespace) -> int:
    return show_answer(arguments, "POST", f"{_alias(arguments)}:protect")


def unprotect(arguments: argparse.Namespace) -> int:
    return show_answer(arguments, "POST", f"{_alias(arguments)}:unprotect")
