"""What an answer has to be: the kinds of checks, as clients write them and as sets keep them. Runs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from multiflora_platform.registry.schemas.fields import check_text
from multiflora_platform.web.json_bodies import Body
from multiflora_platform.web.problems import InvalidRequest

MAX_CASES = 500
_MAX_CHECKS = 16
_MAX_TEXT = 65_536
_MAX_PATTERN = 1000
_MAX_TOKENS = 4096
HIGHEST_GRADE = 10


class ContainsCheck(Body, frozen=True, tag_field="type", tag="contains", omit_defaults=True):
    """The answer holds this text."""

    text: str
    ignore_case: bool = False


class ExactCheck(Body, frozen=True, tag_field="type", tag="exact", omit_defaults=True):
    """The answer is this text, whatever blanks stand around it."""

    text: str
    ignore_case: bool = False


class RegexCheck(Body, frozen=True, tag_field="type", tag="regex"):
    """The pattern is found in the answer."""

    pattern: str


class JsonSchemaCheck(Body, frozen=True, tag_field="type", tag="json_schema", rename={"definition": "schema"}):
    """The answer is JSON that follows the schema; references lead nowhere but into the schema."""

    definition: dict[str, Any]


class NumberCheck(Body, frozen=True, tag_field="type", tag="number", omit_defaults=True):
    """The last number of the answer is `value`, give or take `tolerance` (relative: times the value)."""

    value: float
    tolerance: float = 0.0
    relative: bool = False


class JudgeCheck(Body, frozen=True, tag_field="type", tag="judge", omit_defaults=True):
    """Another model grades the answer by the rubric, from 0 to 10."""

    model: str
    rubric: str
    min_grade: int = 7


Check = ContainsCheck | ExactCheck | RegexCheck | JsonSchemaCheck | NumberCheck | JudgeCheck


class EvalCase(Body, frozen=True, omit_defaults=True):
    """A prompt (or a conversation), answered greedily, and what all has to be true of the answer."""

    checks: list[Check]
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    name: str | None = None
    max_tokens: int = 256

    @property
    def question(self) -> str:
        """For people and judges: the prompt, or what the last message says."""
        if self.prompt is not None:
            return self.prompt
        content = (self.messages or [{}])[-1].get("content")
        return content if isinstance(content, str) else msgspec.json.encode(content).decode()


def check_cases(cases: list[EvalCase]) -> None:
    """Form and bounds; patterns and schemas are looked at by verdicts.py. Raises InvalidRequest."""
    if not 1 <= len(cases) <= MAX_CASES:
        raise InvalidRequest(f"A set holds from 1 to {MAX_CASES} prompts, got {len(cases)}.", pointer="/cases")
    for index, case in enumerate(cases):
        check_case(case, f"/cases/{index}")


def check_case(case: EvalCase, place: str) -> None:
    """place: its JSON pointer. Raises InvalidRequest."""
    if (case.prompt is None) == (case.messages is None):
        raise InvalidRequest("A case has either a prompt or messages.", pointer=place)
    if case.messages is not None and not case.messages:
        raise InvalidRequest("messages is empty.", pointer=f"{place}/messages")
    if not 1 <= len(case.checks) <= _MAX_CHECKS:
        raise InvalidRequest(f"A case has from 1 to {_MAX_CHECKS} checks.", pointer=f"{place}/checks")
    if not 1 <= case.max_tokens <= _MAX_TOKENS:
        raise InvalidRequest(f"max_tokens is from 1 to {_MAX_TOKENS}.", pointer=f"{place}/max_tokens")
    check_text(case.name or "", 200, f"{place}/name")
    check_text(case.prompt or "", _MAX_TEXT, f"{place}/prompt")
    for number, check in enumerate(case.checks):
        for field, text, most in _texts(check):
            check_text(text, most, f"{place}/checks/{number}/{field}")
        _check_bounds(check, f"{place}/checks/{number}")


def _texts(check: Check) -> Iterator[tuple[str, str, int]]:
    """Each text of the check: its field, itself, and how long it may be."""
    if isinstance(check, ContainsCheck | ExactCheck):
        yield "text", check.text, _MAX_TEXT
    elif isinstance(check, RegexCheck):
        yield "pattern", check.pattern, _MAX_PATTERN
    elif isinstance(check, JudgeCheck):
        yield "model", check.model, 200
        yield "rubric", check.rubric, _MAX_TEXT


def _check_bounds(check: Check, place: str) -> None:
    for field, text, _ in _texts(check):
        if not text and not isinstance(check, ExactCheck):
            detail = f"{field} is empty, and says nothing about the answer."
            raise InvalidRequest(detail, pointer=f"{place}/{field}")
    if isinstance(check, NumberCheck) and not check.tolerance >= 0:
        raise InvalidRequest("A tolerance is 0 or more.", pointer=f"{place}/tolerance")
    if isinstance(check, JudgeCheck) and not 1 <= check.min_grade <= HIGHEST_GRADE:
        raise InvalidRequest(f"min_grade is from 1 to {HIGHEST_GRADE}.", pointer=f"{place}/min_grade")
