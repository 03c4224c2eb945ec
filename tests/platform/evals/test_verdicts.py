"""What passes which check; patterns and schemas that would take for ever, or more than their share, are given up."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from multiflora_platform.evals.check_worker import judge
from multiflora_platform.evals.checks import Check
from multiflora_platform.evals.trials import Trial
from multiflora_platform.evals.verdicts import CheckProcess, verdict_on

PERSON = {
    "$defs": {"age": {"type": "integer", "minimum": 0}},
    "type": "object",
    "properties": {"age": {"$ref": "#/$defs/age"}},
    "required": ["age"],
}
VERDICTS: list[tuple[dict[str, Any], str, bool]] = [
    ({"type": "contains", "text": "SELECT"}, "select 1", False),
    ({"type": "contains", "text": "SELECT", "ignore_case": True}, "select 1", True),
    ({"type": "exact", "text": "yes"}, " yes\n", True),
    ({"type": "exact", "text": "yes"}, "yes.", False),
    ({"type": "exact", "text": "STRASSE", "ignore_case": True}, "Straße", True),
    ({"type": "number", "value": 1234.5}, "of 3 items: 1,234.5 EUR", True),
    ({"type": "number", "value": 3.14, "tolerance": 0.01}, "3.15", True),
    ({"type": "number", "value": 3.14, "tolerance": 0.01}, "3.16", False),
    ({"type": "number", "value": 200, "tolerance": 0.1, "relative": True}, "-1 or 181", True),
    ({"type": "number", "value": -5}, "minus: -5", True),
    ({"type": "number", "value": 0}, "none", False),
    ({"type": "number", "value": 0}, "1e999", False),
    ({"type": "regex", "pattern": r"(?i)^select\b"}, "SELECT 1", True),
    ({"type": "regex", "pattern": "^b"}, "ab", False),
    ({"type": "json_schema", "schema": PERSON}, ' {"age": 3} ', True),
    ({"type": "json_schema", "schema": PERSON}, '{"age": -3}', False),
    ({"type": "json_schema", "schema": PERSON}, "age: 3", False),
    ({"type": "json_schema", "schema": {"$ref": "http://127.0.0.1:1/x"}}, "3", False),
    ({"type": "json_schema", "schema": {"$ref": "#"}}, "3", False),
]


@pytest.fixture
async def process() -> AsyncIterator[CheckProcess]:
    process = CheckProcess()
    yield process
    await process.close()


async def test_each_kind_of_check(process: CheckProcess) -> None:
    for document, answer, passes in VERDICTS:
        verdict = await verdict_on(process, msgspec.convert(document, Check), answer)
        assert verdict.passed == passes, (document, answer, verdict)
        assert bool(verdict.detail) != passes, (document, answer, verdict)


async def test_a_pattern_that_would_take_for_ever_is_given_up_and_the_next_check_runs() -> None:
    process = CheckProcess(seconds=0.2)
    slow = [
        {"type": "json_schema", "schema": {"type": "string", "pattern": "^(a+)+$"}},
        {"type": "regex", "pattern": "(?:a|a)*$"},
    ]
    texts = (msgspec.json.encode("a" * 40 + "!").decode(), "b" + "a" * 40 + "!")
    began = time.thread_time()
    for document, answer in zip(slow, texts, strict=True):
        verdict = await verdict_on(process, msgspec.convert(document, Check), answer)
        assert not verdict.passed
        assert "given up" in verdict.detail
    assert time.thread_time() - began < 0.5  # the server's own thread only waits
    assert (await verdict_on(process, msgspec.convert({"type": "regex", "pattern": "a"}, Check), "a")).passed
    await process.close()


async def test_a_process_that_is_ended_from_outside_fails_no_check(process: CheckProcess) -> None:
    sound = Trial(pattern="a", answer="a")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        assert (await process.try_out(sound)).passed
        worker = process._worker
        assert worker is not None
        worker._process.send_signal(number)
        assert (await process.try_out(sound)).passed
        assert (process._worker is worker) == (number != signal.SIGKILL), "only that one cannot be ignored"


def test_what_is_no_pattern_or_schema_says_why() -> None:
    assert "no regular expression" in judge(Trial(pattern="(")).detail
    assert "no JSON schema" in judge(Trial(definition={"type": 3})).detail
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"not": deep}
    assert not judge(Trial(definition=deep, answer="3")).passed
