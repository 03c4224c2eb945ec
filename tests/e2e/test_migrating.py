"""Flags, variables and calls of docs/migrating.md do what their rows say; test_migrating_python.py has the others."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

import httpx
import pytest

from multiflora_platform.cli.main import build_parser
from multiflora_platform.cli.vllm_spelling import as_we_write_it
from multiflora_platform.configuration import Configuration, configure
from multiflora_platform.settings import ConfigurationError, Settings
from multiflora_platform.vllm_options.accept import OPTIONS

from .conftest import KEY, Server
from .migrating_page import ADAPTERS, CALL, NOTHING, PAGE, ROOT, UNCHANGED, Row, of_kind, rows


def test_every_line_of_every_table_is_a_row_with_a_check() -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("|") and "| --- |" not in line]
    assert len(lines) - PAGE.count("| --- | --- |") == len(rows())
    checked = {
        "flag": {"accepted", "no effect", "refused", "unknown"},
        "variable": {"not read"},
        "call": {"200", "400", "401", "404"},
        "python": {"runs", "ValueError", "TypeError"},
        "peft": {"same text"},
    }
    for row in rows():
        assert row.outcome in checked[row.kind], row
        assert (row.instead == UNCHANGED) == (row.outcome in ("accepted", "200", "runs")), row


# ---- flags and variables


def configuration(line: str, environment: dict[str, str] | None = None) -> Configuration:
    """Raises SystemExit for flags that do not exist, ConfigurationError for what is refused."""
    arguments, unknown = build_parser().parse_known_args(as_we_write_it(["serve", *shlex.split(line)]))
    if unknown:
        raise SystemExit(2)
    given = {name: value for name, value in vars(arguments).items() if name in Settings.model_fields or name in OPTIONS}
    given |= {"model": arguments.model_flag} if "model_flag" in arguments else {}
    return configure(given, environment or {})


def outcome_of(line: str) -> str:
    try:
        made = configuration(line)
    except SystemExit:
        return "unknown"
    except ConfigurationError:
        return "refused"
    return "no effect" if made.notices else "accepted"


@of_kind("flag")
def test_a_flag_does_here_what_its_row_says(row: Row) -> None:
    assert outcome_of(row.written) == row.outcome
    if row.instead not in (UNCHANGED, NOTHING):
        assert outcome_of(row.instead) == "accepted"
        asks_for_the_default = row.instead.endswith("-size 1")
        assert asks_for_the_default or configuration(row.instead).settings != Settings()


@of_kind("variable")
def test_a_variable_does_here_what_its_row_says(row: Row) -> None:
    def settings(text: str) -> Settings:
        name, value = text.split("=", 1)
        return configuration("", {name: value}).settings

    assert settings(row.written) == Settings()
    assert row.instead == NOTHING or settings(row.instead) != Settings()


# ---- calls


@pytest.fixture
def http(three_adapters: Server) -> Iterator[httpx.Client]:
    """The server's adapters are those that the page starts it with, and an empty `mine` where a call adds to it."""
    with three_adapters.http() as client:
        yield client
        client.delete("/api/v1/adapters/mine")
        for name in ADAPTERS[:2]:
            body = {"lora_name": name, "lora_path": str(ROOT / "examples/demo/adapters" / name), "load_inplace": True}
            assert client.post("/v1/load_lora_adapter", json=body).status_code == 200


def answer(http: httpx.Client, call: str) -> httpx.Response:
    found = CALL.fullmatch(call.replace("$KEY", KEY).replace("$PWD", str(ROOT)))
    assert found, call
    method, path, body, header, value = found.groups()
    if path.startswith("/api/v1/adapters/mine"):
        http.post("/api/v1/adapters", json={"name": "mine"}).raise_for_status()
    return http.request(
        method, path, json=json.loads(body) if body else None, headers={header: value} if header else {}
    )


def spoke(call: str, answered: httpx.Response) -> None:
    """Who was asked is who answered."""
    body = CALL.fullmatch(call)
    asked = json.loads(body[3]).get("model") if body and body[3] and "completions" in body[2] else None
    if asked in ADAPTERS:
        assert answered.headers["x-multiflora-version"].startswith(f"{asked}@")


@pytest.mark.slow
@of_kind("call")
def test_a_call_is_answered_as_its_row_says(http: httpx.Client, row: Row) -> None:
    given = answer(http, row.written)
    assert given.status_code == int(row.outcome), given.text
    if row.instead in (UNCHANGED, NOTHING):
        spoke(row.written, given)
        return
    here = answer(http, row.instead)
    assert here.is_success, here.text
    spoke(row.instead, here)
