"""`multiflora evals ls|put|add|show|set|rm|run|runs|result|cancel|matrix|compare`, over the server's REST API."""

from __future__ import annotations

import argparse
import time
from typing import Any

from multiflora_platform.cli.actions import Actions, Run, patch, show_answer
from multiflora_platform.cli.http import every, quoted, request
from multiflora_platform.cli.terminal.details import number
from multiflora_platform.cli.terminal.files import read_json
from multiflora_platform.cli.terminal.output import emit, emit_one, tell
from multiflora_platform.exit_codes import CommandError, ExitCode

SETS = ("name", "version", "cases", "min_score", "aliases", "description", "updated_at")
RUNS = {
    "id": "id",
    "eval": "eval",
    "eval_version": "version",
    "model": "model",
    "state": "state",
    "score": "score",
    "passed": "passed",
    "total": "total",
    "errors": "errors",
    "reason": "reason",
    "created_at": "created",
}
RESULTS = ("position", "outcome", "question", "answer", "checks")
COMPARED = ("change", "question", "left", "right")
_UNFINISHED = ("queued", "running")
_POLL_SECONDS = 0.5
_SHOWN = 60


def add_parser(commands: Any) -> None:
    actions = Actions(commands, "evals", "prompts with checks, run against versions")
    _action(actions, "ls", ls, "list an adapter's evals")
    putting = _with_set(actions, "put", put, "make or replace one")
    putting.add_argument("file", help='JSON: a list of cases, or {"cases": […], "description", "min_score", "aliases"}')
    adding = _with_set(actions, "add", add, "one more case at the end of one, which is made where there is none")
    adding.add_argument("file", help="JSON: a case")
    setting = _with_set(actions, "set", change, "what one gates, and its description")
    for one in (putting, setting):
        one.add_argument("--min-score", type=float, help="0 to 1; versions below are not promoted")
        one.add_argument("--alias", action="append", dest="aliases", help="that it gates; repeatable; default: default")
        one.add_argument("--description")
    setting.add_argument("--no-min-score", action="store_true", help="it gates nothing")
    showing = _with_set(actions, "show", show, "one with its prompts")
    _with_set(actions, "rm", rm, "delete one with its runs")
    running = _with_set(actions, "run", run, "ask a version, or several; exit code 5 below the eval's min_score")
    running.add_argument("--version", action="append", type=int, dest="versions", help="repeatable; default: default's")
    running.add_argument("--model", help="another adapter, or the base model, as requests name it")
    running.add_argument("--mix", metavar="NAME=WEIGHT", action="append", help="a part of a mix; repeatable")
    running.add_argument("--no-wait", dest="wait", action="store_false", help="do not wait for the runs to end")
    matrix = _with_set(actions, "matrix", show_matrix, "versions by prompts")
    for parser in (showing, matrix):
        parser.add_argument("--version", type=int, help="of the eval; default: its newest")
    history = _action(actions, "runs", runs, "runs and their scores, newest first")
    history.add_argument("--eval", help="only this eval's")
    history.add_argument("--version", type=int, help="only of this version of the adapter")
    for name, work, help_text in (("result", result, "one run, prompt by prompt"), ("cancel", cancel, "end a run")):
        _action(actions, name, work, help_text).add_argument("number", metavar="RUN", type=int)
    comparing = _action(actions, "compare", compare, "two runs, prompt by prompt")
    comparing.add_argument("left", type=int, help="a run")
    comparing.add_argument("right", type=int, help="a run")


def _action(actions: Actions, name: str, work: Run, help_text: str) -> argparse.ArgumentParser:
    parser = actions.add(name, work, help_text)
    parser.add_argument("adapter")
    return parser


def _with_set(actions: Actions, name: str, work: Run, help_text: str) -> argparse.ArgumentParser:
    parser = _action(actions, name, work, help_text)
    parser.add_argument("eval")
    return parser


def _adapter(arguments: argparse.Namespace) -> str:
    return f"/adapters/{quoted(arguments.adapter)}"


def _set(arguments: argparse.Namespace) -> str:
    return f"{_adapter(arguments)}/evals/{quoted(arguments.eval)}"


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("min_score", "aliases", "description")
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}


def ls(arguments: argparse.Namespace) -> int:
    emit(arguments.output, list(every(arguments, f"{_adapter(arguments)}/evals", {})), SETS)
    return ExitCode.OK


def put(arguments: argparse.Namespace) -> int:
    document = read_json(arguments.file)
    if not isinstance(document, list | dict):
        raise CommandError(f"{arguments.file} holds neither cases nor an object with them", ExitCode.CONFIGURATION)
    body = {"cases": document} if isinstance(document, list) else document
    return show_answer(arguments, "PUT", _set(arguments), brief=_counted, json={**body, **_given(arguments)})


def add(arguments: argparse.Namespace) -> int:
    return show_answer(arguments, "POST", f"{_set(arguments)}/cases", brief=_counted, json=read_json(arguments.file))


def change(arguments: argparse.Namespace) -> int:
    lifted = {"min_score": None} if arguments.no_min_score else {}
    advice = "give --min-score, --no-min-score, --alias or --description"
    return patch(arguments, _set(arguments), {**_given(arguments), **lifted}, advice, brief=_counted)


def _counted(document: dict[str, Any]) -> dict[str, Any]:
    """`show` tells which cases a set has."""
    return {**document, "cases": len(document["cases"])}


def show(arguments: argparse.Namespace) -> int:
    return show_answer(arguments, "GET", _set(arguments), params=_version(arguments))


def rm(arguments: argparse.Namespace) -> int:
    request(arguments, "DELETE", _set(arguments))
    tell(arguments.output, "deleted", arguments.eval)
    return ExitCode.OK


def run(arguments: argparse.Namespace) -> int:
    started = [
        request(arguments, "POST", f"{_set(arguments)}/runs", json=target).json() for target in _targets(arguments)
    ]
    ended = [_ended(arguments, one) if arguments.wait else one for one in started]
    emit(arguments.output, ended, RUNS)
    if not arguments.wait:
        return ExitCode.OK
    if any(one["state"] != "completed" for one in ended):
        return ExitCode.FAILURE
    bound = request(arguments, "GET", _set(arguments)).json()["min_score"]
    return ExitCode.REJECTED if bound is not None and any(one["score"] < bound for one in ended) else ExitCode.OK


def _targets(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    if sum(bool(given) for given in (arguments.versions, arguments.model, arguments.mix)) > 1:
        raise CommandError("give one of --version, --model and --mix", ExitCode.USAGE)
    if arguments.versions:
        return [{"version": version} for version in arguments.versions]
    if arguments.mix:
        return [{"adapters": [_part(text) for text in arguments.mix]}]
    return [{"model": arguments.model} if arguments.model else {}]


def _part(text: str) -> dict[str, Any]:
    name, _, weight = text.partition("=")
    otherwise = f"{text!r} is no part of a mix; write NAME=WEIGHT, as sql=0.5"
    return {"name": name, "weight": number(weight or "1", otherwise)}


def _ended(arguments: argparse.Namespace, run: dict[str, Any]) -> dict[str, Any]:
    while run["state"] in _UNFINISHED:
        time.sleep(_POLL_SECONDS)
        path = f"{_adapter(arguments)}/eval-runs/{run['id']}"
        run = request(arguments, "GET", path, params={"results": False}).json()["run"]
    return run


def runs(arguments: argparse.Namespace) -> int:
    wanted = {name: value for name in ("eval", "version") if (value := getattr(arguments, name)) is not None}
    emit(arguments.output, list(every(arguments, f"{_adapter(arguments)}/eval-runs", wanted)), RUNS)
    return ExitCode.OK


def result(arguments: argparse.Namespace) -> int:
    document = request(arguments, "GET", f"{_adapter(arguments)}/eval-runs/{arguments.number}").json()
    if arguments.output == "json":
        emit_one("json", document)
        return ExitCode.OK
    emit("table", [document["run"]], RUNS)
    print()
    emit("table", [{**item, **_short(item), "checks": _failures(item)} for item in document["items"]], RESULTS)
    return ExitCode.OK


def cancel(arguments: argparse.Namespace) -> int:
    return show_answer(arguments, "POST", f"{_adapter(arguments)}/eval-runs/{arguments.number}:cancel")


def show_matrix(arguments: argparse.Namespace) -> int:
    document = request(arguments, "GET", f"{_set(arguments)}/matrix", params=_version(arguments)).json()
    if arguments.output == "json":
        emit_one("json", document)
        return ExitCode.OK
    columns = [f"{run['model']} #{run['id']}" for run in document["runs"]]
    rows = [
        {"prompt": row["name"] or row["question"][:_SHOWN], **dict(zip(columns, row["outcomes"], strict=True))}
        for row in document["rows"]
    ]
    scores = {column: run["score"] for column, run in zip(columns, document["runs"], strict=True)}
    emit("table", [*rows, {"prompt": "(score)", **scores}], ("prompt", *columns))
    return ExitCode.OK


def compare(arguments: argparse.Namespace) -> int:
    sides = {"left": arguments.left, "right": arguments.right}
    document = request(arguments, "GET", f"{_adapter(arguments)}/eval-runs:compare", params=sides).json()
    if arguments.output == "json":
        emit_one("json", document)
        return ExitCode.OK
    rows = [{**item, **_short(item), **{side: _said(item[side]) for side in sides}} for item in document["items"]]
    emit("table", rows, COMPARED)
    counts = ", ".join(f"{document[change]} {change}" for change in ("better", "worse", "same"))
    print(f"{document['right']['model']} against {document['left']['model']}: {counts}")
    return ExitCode.OK


def _version(arguments: argparse.Namespace) -> dict[str, Any]:
    return {} if arguments.version is None else {"version": arguments.version}


def _short(item: dict[str, Any]) -> dict[str, Any]:
    return {field: text[:_SHOWN] for field in ("question", "answer") if isinstance(text := item.get(field), str)}


def _said(side: dict[str, Any] | None) -> str:
    return "" if side is None else f"{side['outcome']}: {(side['answer'] or _failures(side))[:_SHOWN]}"


def _failures(item: dict[str, Any]) -> str:
    return "; ".join(f"{check['type']}: {check['detail']}" for check in item["checks"] if not check["passed"])[:200]
