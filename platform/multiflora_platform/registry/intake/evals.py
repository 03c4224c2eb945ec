"""Does a version answer as its maker expects? Each eval is one greedy answer, looked at by text and by pattern.

Knows no engine: the gateway gives the function that asks one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import regex

from multiflora_adapters.validation import ValidationRow
from multiflora_platform.registry.schemas.version_metadata import Eval
from multiflora_platform.registry.serving.base_links import AnswerEval

_PATTERN_SECONDS = 2.0
_SHOWN = 400
# What `run` adds to an eval as its maker wrote it.
RESULTS = ("answer", "passed")


async def run(
    answer: AnswerEval, digest: str, evals: Sequence[Eval]
) -> tuple[list[ValidationRow], list[dict[str, Any]]]:
    """A row and a stored result for each, in order; the engine batches them."""
    texts = await asyncio.gather(*(answer(digest, one) for one in evals))
    rows, results = [], []
    for number, (one, text) in enumerate(zip(evals, texts, strict=True), start=1):
        missing = await asyncio.to_thread(_missing, one, text)
        results.append({**msgspec.to_builtins(one), "answer": text, "passed": not missing})
        rows.append(_row(number, missing, text))
    return rows, results


def _missing(one: Eval, text: str) -> list[str]:
    missing = [repr(part) for part in one.contains if part not in text]
    for pattern in one.matches:
        try:
            found = regex.search(pattern, text, timeout=_PATTERN_SECONDS, concurrent=True)
        except TimeoutError:
            missing.append(f"/{pattern}/ (given up after {_PATTERN_SECONDS:g} s)")
            continue
        if found is None:
            missing.append(f"/{pattern}/")
    return missing


def _row(number: int, missing: list[str], text: str) -> ValidationRow:
    shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    if not missing:
        return ValidationRow(check="eval", severity="ok", message=f"Eval {number} passed.", observed=shown)
    return ValidationRow(
        check="eval",
        severity="error",
        message=f"Eval {number} failed: the answer lacks {', '.join(missing)[:_SHOWN]}.",
        observed=shown,
        expected=", ".join(missing)[:_SHOWN],
        hint="Train it further, or correct the eval; the answer is greedy.",
    )
