"""`multiflora adapters ls|add|show|set|validate|alias|rollback|rm`, over the server's REST API.

Its other actions are in residency.py and rollouts.py; one version's are in versions.py.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from multiflora_platform.cli import jobs, residency, rollouts
from multiflora_platform.cli.actions import Actions, Run, patch, show_answer
from multiflora_platform.cli.http import every, quoted, request
from multiflora_platform.cli.terminal.cells import target
from multiflora_platform.cli.terminal.details import add_lineage_flags, evals, lineage, metrics
from multiflora_platform.cli.terminal.output import emit, emit_one, tell
from multiflora_platform.cli.terminal.progress import uploading
from multiflora_platform.exit_codes import CommandError, ExitCode

FILES = ("adapter_config.json", "adapter_model.safetensors")
CARD = "README.md"
REPORT = ("severity", "check", "message", "observed", "expected", "hint")


def add_parser(commands: Any) -> None:
    actions = Actions(commands, "adapters", "adapters, versions and aliases")

    def action(name: str, run: Run, help_text: str) -> argparse.ArgumentParser:
        parser = actions.add(name, run, help_text)
        parser.add_argument("name", help="the adapter's name")
        return parser

    listing = actions.add("ls", ls, "list adapters")
    listing.add_argument("-q", help="only names and descriptions with this text")
    listing.add_argument("--tag", help="only adapters with this tag")
    adding = action("add", add, "upload a version; creates the adapter when it is new")
    adding.add_argument("source", help="PEFT folder, .tar.gz, .zip, or file:// and hf:// as the server sees it")
    adding.add_argument("--description", default="", help="for a new adapter")
    adding.add_argument("--tag", action="append", default=[], help="for a new adapter; repeatable")
    adding.add_argument("--about", default="", help="what is special about this version")
    add_lineage_flags(adding)
    adding.add_argument("--evals", metavar="FILE", help="JSON list of prompts that it must answer as expected")
    adding.add_argument(
        "--wait", action="store_true", help="until an import has ended; exit code 5 when it was rejected"
    )
    adding.add_argument("--promote", action="store_true", help="move the alias default to the new version")
    action("show", show, "one adapter and its versions")
    validating = action("validate", validate, "the validation report of a version")
    validating.add_argument("version", type=int, nargs="?", help="default: the newest")
    aliasing = action("alias", alias, "point an alias to a version")
    aliasing.add_argument("alias")
    aliasing.add_argument("version", help="a version number, or a split such as 3=90,4=10")
    rolling = action("rollback", rollback, "return an alias to its last settled target; a second time changes nothing")
    rolling.add_argument("alias", nargs="?", default="default")
    action("rm", rm, "delete an adapter")
    editing = action("set", change, "change what is said about an adapter")
    editing.add_argument("--description")
    editing.add_argument("--tag", action="append", dest="tags", help="all its tags; repeatable")
    editing.add_argument("--warmup-prompt", action="append", dest="warmup_prompts", help="all of them; repeatable")
    residency.add_actions(actions.group)
    rollouts.add_actions(actions.group)


def ls(arguments: argparse.Namespace) -> int:
    query = {key: value for key in ("q", "tag") if (value := getattr(arguments, key))}
    rows = list(every(arguments, "/adapters", query))
    if arguments.output == "table":
        rows = [{**row, "aliases": _pointed(row)} for row in rows]
    emit(arguments.output, rows, ("name", "aliases", "description", "tags"))
    return 0


def add(arguments: argparse.Namespace) -> int:
    files = None if "://" in arguments.source else _files(arguments.source)
    details = {"description": arguments.about, "lineage": lineage(arguments), "evals": evals(arguments.evals)}
    details |= {"metrics": given} if (given := metrics(arguments)) else {}
    created = _created(arguments)
    try:
        version = _upload(arguments, files, details)
    except CommandError:
        if created:
            print(f"adapter {arguments.name} was created, but has no ready version yet", file=sys.stderr)
        raise
    shown = {key: version.get(key) for key in ("version", "state", "digest")}
    job = version.get("job")
    emit_one(arguments.output, shown | ({"job": job["id"]} if job else {}))
    if job is None:
        return 0
    if arguments.wait:
        return jobs.outcome(arguments, job["id"])
    print(f"the server imports it now and may still reject it: multiflora jobs wait {job['id']}", file=sys.stderr)
    return 0


def _created(arguments: argparse.Namespace) -> bool:
    """Make the adapter; False when it was there. The server says what is wrong with an invalid name."""
    try:
        request(arguments, "GET", f"/adapters/{quoted(arguments.name)}")
    except CommandError as error:
        if error.slug not in ("adapter-not-found", "not-found"):
            raise
        body = {"name": arguments.name, "description": arguments.description, "tags": arguments.tag}
        request(arguments, "POST", "/adapters", json=body)
        return True
    return False


def _upload(arguments: argparse.Namespace, files: list[Path] | None, details: dict[str, Any]) -> dict[str, Any]:
    """files: of this machine; None sends the source's address. details: what is said of the version."""
    path = f"/adapters/{quoted(arguments.name)}/versions"
    params = {"promote": "true"} if arguments.promote else {}
    if files is None:
        answer = request(arguments, "POST", path, params=params, json={"source": arguments.source, **details})
    else:
        with uploading(files) as opened:
            parts: list[Any] = [("metadata", (None, json.dumps(details))), *(("files", part) for part in opened)]
            answer = request(arguments, "POST", path, params=params, files=parts)
    version: dict[str, Any] = answer.json()
    return version


def _files(source: str) -> list[Path]:
    path = Path(source)
    files = [path / name for name in FILES] if path.is_dir() else [path]
    if path.is_dir() and (path / CARD).is_file():
        files.append(path / CARD)
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        advice = "SOURCE is a PEFT folder, an archive of one, or an address such as hf://org/repository"
        raise CommandError(f"no such file: {missing[0]}; {advice}")
    return files


def show(arguments: argparse.Namespace) -> int:
    base = f"/adapters/{quoted(arguments.name)}"
    adapter = request(arguments, "GET", base).json()
    versions = request(arguments, "GET", f"{base}/versions", params={"limit": 1000}).json()["items"]
    if arguments.output == "json":
        emit_one("json", {**adapter, "versions": versions})
        return 0
    emit_one("table", {**{key: adapter[key] for key in ("name", "description", "tags")}, "aliases": _pointed(adapter)})
    print()
    emit("table", versions, ("version", "state", "digest", "created_at", "description"))
    return 0


def _pointed(adapter: dict[str, Any]) -> list[str]:
    return [f"{name} → {target(pointed)}" for name, pointed in adapter["aliases"].items()]


def validate(arguments: argparse.Namespace) -> int:
    base = f"/adapters/{quoted(arguments.name)}/versions"
    number = arguments.version
    if number is None:
        versions = request(arguments, "GET", base).json()["items"]
        if not versions:
            raise CommandError(f"{arguments.name} has no version yet; `multiflora adapters add` uploads one")
        number = max(version["version"] for version in versions)
    rows = request(arguments, "GET", f"{base}/{number}/validation").json()["rows"]
    emit(arguments.output, rows, REPORT)
    return ExitCode.REJECTED if any(row["severity"] == "error" for row in rows) else ExitCode.OK


def alias(arguments: argparse.Namespace) -> int:
    path = _alias_path(arguments)
    body: dict[str, Any]
    if re.fullmatch(r"\d+", arguments.version, re.ASCII):
        body = {"version": int(arguments.version)}
    elif re.fullmatch(r"\d+=\d+(,\d+=\d+)*", arguments.version, re.ASCII):
        shares = (part.partition("=") for part in arguments.version.split(","))
        body = {"split": {version: int(share) for version, _, share in shares}}
    else:
        raise CommandError("VERSION is a number, or a split such as 3=90,4=10", ExitCode.USAGE)
    return show_answer(arguments, "PUT", path, json=body, headers=_if_match(arguments, path))


def _alias_path(arguments: argparse.Namespace) -> str:
    return f"/adapters/{quoted(arguments.name)}/aliases/{quoted(arguments.alias)}"


def _if_match(arguments: argparse.Namespace, path: str) -> dict[str, str]:
    """The alias's present ETag, so that another client's move made meanwhile is not overwritten."""
    try:
        return {"If-Match": request(arguments, "GET", path).headers["etag"]}
    except CommandError as error:
        if error.slug == "alias-not-found":
            return {}
        raise


def rollback(arguments: argparse.Namespace) -> int:
    path = _alias_path(arguments)
    return show_answer(arguments, "POST", f"{path}:rollback", headers=_if_match(arguments, path))


def change(arguments: argparse.Namespace) -> int:
    fields = {name: getattr(arguments, name) for name in ("description", "tags", "warmup_prompts")}
    body = {name: value for name, value in fields.items() if value is not None}
    return patch(arguments, f"/adapters/{quoted(arguments.name)}", body, "give --description, --tag or --warmup-prompt")


def rm(arguments: argparse.Namespace) -> int:
    request(arguments, "DELETE", f"/adapters/{quoted(arguments.name)}")
    tell(arguments.output, "deleted", arguments.name)
    return 0
