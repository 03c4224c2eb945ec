"""Runs side by side: all versions on one set, and two runs prompt by prompt. Knows no database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from multiflora_platform.evals.checks import EvalCase
from multiflora_platform.evals.schemas import (
    ComparedAnswer,
    ComparedCase,
    EvalComparison,
    EvalMatrixRow,
    EvalResult,
    EvalRun,
    Outcome,
)

Change = Literal["better", "worse", "same", "new"]


def newest_of_each(runs: Sequence[EvalRun]) -> list[EvalRun]:
    """runs: completed, newest first. The newest of each model and mix; versions first, by number."""
    found: dict[bytes, EvalRun] = {}
    for run in runs:
        found.setdefault(msgspec.json.encode([run.model, run.mix]), run)
    return sorted(found.values(), key=lambda run: (run.version is None, run.version or 0, run.model, run.id))


def matrix_rows(cases: Sequence[EvalCase], outcomes: Sequence[Mapping[int, Outcome]]) -> list[EvalMatrixRow]:
    """outcomes: of each run, by the prompt's position."""
    return [
        EvalMatrixRow(
            position=position,
            name=case.name,
            question=case.question,
            outcomes=[of_run.get(position) for of_run in outcomes],
        )
        for position, case in enumerate(cases)
    ]


def compare(
    left: tuple[EvalRun, Sequence[EvalCase], Sequence[EvalResult]],
    right: tuple[EvalRun, Sequence[EvalCase], Sequence[EvalResult]],
) -> EvalComparison:
    """Each: a run, its set's prompts and its results. In the order of the right one's set, then what only left has, in
    the order of its own."""
    of_left, of_right = _by_case(*left[1:]), _by_case(*right[1:])
    items = [_compared(of_left.get(key), of_right.get(key)) for key in dict.fromkeys([*of_right, *of_left])]
    counts = {change: sum(item.change == change for item in items) for change in ("better", "worse", "same")}
    return EvalComparison(left=left[0], right=right[0], items=items, **counts)


def _by_case(cases: Sequence[EvalCase], results: Sequence[EvalResult]) -> dict[bytes, EvalResult]:
    """By what was asked and what was expected, whatever the prompt is named; of equal prompts, each by its turn."""
    found: dict[bytes, EvalResult] = {}
    for result in results:
        case = cases[result.position]
        key, turn = msgspec.json.encode([case.prompt, case.messages, case.checks], order="deterministic"), 0
        while (turned := key + b"/%d" % turn) in found:
            turn += 1
        found[turned] = result
    return found


def _compared(left: EvalResult | None, right: EvalResult | None) -> ComparedCase:
    known = right or left
    assert known is not None, "one of them has it"
    return ComparedCase(
        name=known.name, question=known.question, change=_change(left, right), left=_shown(left), right=_shown(right)
    )


def _change(left: EvalResult | None, right: EvalResult | None) -> Change:
    if left is None or right is None:
        return "new"
    before, after = left.outcome == "passed", right.outcome == "passed"
    return "same" if before == after else "better" if after else "worse"


def _shown(result: EvalResult | None) -> ComparedAnswer | None:
    if result is None:
        return None
    return ComparedAnswer(outcome=result.outcome, answer=result.answer, checks=result.checks)
