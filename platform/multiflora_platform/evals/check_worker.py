"""Patterns and schemas that clients wrote, tried on answers in a process of its own, which may be killed at any moment.

`python -m multiflora_platform.evals.check_worker SECONDS`: reads one Trial after the other from its standard input, and
writes a CheckVerdict for each to its standard output, each as JSON on a line of its own. Ends with its input.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import jsonschema
import msgspec
import regex
from jsonschema.validators import validator_for
from referencing.jsonschema import EMPTY_REGISTRY

from multiflora_platform.confinement import limit_memory, refuse_network_and_programs
from multiflora_platform.evals.trials import MEGABYTES, CheckVerdict, Trial
from multiflora_platform.workers.answering import answer_lines, leave_signals_to_the_server

_SHOWN = 300


def judge(trial: Trial) -> CheckVerdict:
    """Raises nothing but what ends the process."""
    try:
        if trial.pattern is not None:
            return _match(trial.pattern, trial.answer)
        return _validate(trial.definition or {}, trial.answer)
    except (RecursionError, MemoryError):
        return CheckVerdict(False, "it is nested too deeply or takes too much memory")


def _match(pattern: str, answer: str | None) -> CheckVerdict:
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        return CheckVerdict(False, f"{pattern[:80]!r} is no regular expression: {error}")
    if answer is None or compiled.search(answer) is not None:
        return CheckVerdict(True)
    return CheckVerdict(False, f"/{pattern[:_SHOWN]}/ is not found in it")


def _validate(definition: dict[str, Any], answer: str | None) -> CheckVerdict:
    kind = validator_for(definition, default=jsonschema.Draft202012Validator)
    if answer is None:
        try:
            kind.check_schema(definition)
        except jsonschema.SchemaError as error:
            return CheckVerdict(False, f"it is no JSON schema: {error.message[:_SHOWN]}")
        return CheckVerdict(True)
    try:
        value = msgspec.json.decode(answer.strip())
    except msgspec.DecodeError as error:
        return CheckVerdict(False, f"it is no JSON: {error}")
    # Without a registry the library would fetch what a reference names from the network.
    try:
        found = jsonschema.exceptions.best_match(kind(definition, registry=EMPTY_REGISTRY).iter_errors(value))
    except Exception as error:  # a reference that leads nowhere, a pattern that is none: the library raises many kinds
        return CheckVerdict(False, f"its schema cannot be followed: {error}"[:_SHOWN])
    if found is None:
        return CheckVerdict(True)
    return CheckVerdict(False, f"at {found.json_path}: {found.message}"[:_SHOWN])


def main() -> None:
    leave_signals_to_the_server()
    os.nice(10)
    limit_memory(MEGABYTES << 20)
    refuse_network_and_programs()
    answer_lines(_judge_line, signal.ITIMER_PROF, float(sys.argv[1]))


def _judge_line(line: bytes) -> bytes:
    return msgspec.json.encode(judge(msgspec.json.decode(line, type=Trial)))


if __name__ == "__main__":
    main()
