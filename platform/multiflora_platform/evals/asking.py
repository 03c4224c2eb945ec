"""One prompt of a set: asked through the gateway's own routes, its answer looked at, a judge asked where one is named.

Knows no rows. What the gateway refuses is an error of that prompt, in the gateway's words.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.responses import Response

from multiflora_platform.auth.principals import Principal
from multiflora_platform.evals.checks import HIGHEST_GRADE, Check, EvalCase, JudgeCheck
from multiflora_platform.evals.runs import CaseResult
from multiflora_platform.evals.schemas import CheckResult, Outcome
from multiflora_platform.evals.trials import CheckVerdict
from multiflora_platform.evals.verdicts import CheckProcess, verdict_on

# ask(principal, url, body): the gateway's answer, once it is one; engines that restart and spent limits are waited out.
Ask = Callable[[Principal, str, dict[str, Any]], Awaitable[Response]]
_GRADES = [str(grade) for grade in range(HIGHEST_GRADE + 1)]
_JUDGE = (
    "You grade an answer to a question by a rubric. Reply with one whole number from 0 (not at all as the rubric wants "
    f"it) to {HIGHEST_GRADE} (exactly so), and nothing else."
)


class NoAnswer(Exception):
    """The gateway refused; the message is for people."""


@dataclass(frozen=True)
class Answered:
    text: str
    seconds: float
    tokens: int


class Examiner:
    """ask: as above. process: for patterns and schemas."""

    def __init__(self, ask: Ask, process: CheckProcess) -> None:
        self._ask = ask
        self._process = process

    async def examine(self, principal: Principal, fields: dict[str, Any], position: int, case: EvalCase) -> CaseResult:
        """fields: of a request, that say which model is asked."""
        try:
            answered = await self._answer(principal, fields, case)
        except NoAnswer as error:
            return CaseResult(position, "error", None, [CheckResult(type="answer", passed=False, detail=str(error))])
        found, is_error = [], False
        for check in case.checks:
            try:
                verdict = await self._verdict(principal, check, case, answered.text)
            except NoAnswer as error:
                verdict, is_error = CheckVerdict(False, f"the judge gave no grade: {error}"), True
            kind = check.__struct_config__.tag
            found.append(CheckResult(type=str(kind), passed=verdict.passed, detail=verdict.detail))
        passed = all(one.passed for one in found)
        outcome: Outcome = "passed" if passed else "error" if is_error else "failed"
        return CaseResult(position, outcome, answered.text, found, answered.seconds, answered.tokens)

    async def _answer(self, principal: Principal, fields: dict[str, Any], case: EvalCase) -> Answered:
        body = {**fields, "max_tokens": case.max_tokens, "temperature": 0}
        began = time.monotonic()
        if case.messages is None:
            document = await self._read(principal, "/v1/completions", {**body, "prompt": case.prompt})
            text = document["choices"][0]["text"]
        else:
            document = await self._read(principal, "/v1/chat/completions", {**body, "messages": case.messages})
            text = _said(document["choices"][0]["message"])
        return Answered(text, time.monotonic() - began, document["usage"]["completion_tokens"])

    async def _verdict(self, principal: Principal, check: Check, case: EvalCase, answer: str) -> CheckVerdict:
        if not isinstance(check, JudgeCheck):
            return await verdict_on(self._process, check, answer)
        question = f"Rubric:\n{check.rubric}\n\nQuestion:\n{case.question}\n\nAnswer:\n{answer}"
        messages = [{"role": "system", "content": _JUDGE}, {"role": "user", "content": question}]
        # Only a grade can be said, whatever the judge has learned.
        body = {"model": check.model, "messages": messages, "temperature": 0, "structured_outputs": {"choice": _GRADES}}
        document = await self._read(principal, "/v1/chat/completions", body)
        grade = _said(document["choices"][0]["message"]).strip()
        if grade not in _GRADES:
            raise NoAnswer(f"it said {grade[:40]!r}")
        return CheckVerdict(
            int(grade) >= check.min_grade, f"grade {grade} of {HIGHEST_GRADE}, {check.min_grade} is enough"
        )

    async def _read(self, principal: Principal, url: str, body: dict[str, Any]) -> dict[str, Any]:
        """Raises NoAnswer."""
        response = await self._ask(principal, url, body)
        document: dict[str, Any] = msgspec.json.decode(bytes(response.body))
        if response.status_code != 200:
            raise NoAnswer(str(document.get("error", {}).get("message", f"status {response.status_code}"))[:1000])
        return document


def _said(message: dict[str, Any]) -> str:
    """A message that only calls tools says its calls."""
    content = message.get("content")
    if content or not message.get("tool_calls"):
        return content or ""
    return msgspec.json.encode([call["function"] for call in message["tool_calls"]]).decode()
