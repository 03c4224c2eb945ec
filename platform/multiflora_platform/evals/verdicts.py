"""Does an answer pass a check? Texts and numbers are compared here, patterns and schemas in a process within bounds."""

from __future__ import annotations

import asyncio
import re

import msgspec

from multiflora_platform.evals.checks import (
    Check,
    ContainsCheck,
    EvalCase,
    ExactCheck,
    JsonSchemaCheck,
    NumberCheck,
    RegexCheck,
)
from multiflora_platform.evals.trials import MEGABYTES, SECONDS, CheckVerdict, Trial
from multiflora_platform.web.problems import InvalidRequest
from multiflora_platform.workers.process import WorkerEnded, WorkerProcess, again_if_ended_from_outside

_WORKER = "multiflora_platform.evals.check_worker"
# Of a worker that does not even die: a busy machine may give it little time.
_LAST_RESORT_SECONDS = 60.0
_LINE_BYTES = 1 << 20
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d{1,3})?")
_SHOWN = 200


class CheckProcess:
    """Starts with the first pattern or schema, is started again after one that took too much; `close` ends it."""

    def __init__(self, seconds: float = SECONDS) -> None:
        """seconds: of processor time, for one trial."""
        self._seconds = seconds
        self._worker: WorkerProcess | None = None
        self._turn = asyncio.Lock()

    async def try_out(self, trial: Trial) -> CheckVerdict:
        line = msgspec.json.encode(trial) + b"\n"
        async with self._turn:
            try:
                return await again_if_ended_from_outside(lambda: self._ask(line))
            except (WorkerEnded, TimeoutError):
                return CheckVerdict(
                    False, f"given up: it takes more than {self._seconds:g} s of processor time or {MEGABYTES} MB"
                )

    async def close(self) -> None:
        async with self._turn:
            await self._end()

    async def _ask(self, line: bytes) -> CheckVerdict:
        """Raises WorkerEnded, TimeoutError."""
        if self._worker is None:
            self._worker = await WorkerProcess.start(_WORKER, str(self._seconds), line_bytes=_LINE_BYTES)
        try:
            answer = await self._worker.ask(line, _LAST_RESORT_SECONDS)
        except BaseException:
            await self._end()
            raise
        return msgspec.json.decode(answer, type=CheckVerdict)

    async def _end(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.kill()


async def require_sound(process: CheckProcess, case: EvalCase, place: str) -> None:
    """Every pattern and schema can be read, within bounds. place: the case's JSON pointer. Raises InvalidRequest
    pointing at the check."""
    for number, check in enumerate(case.checks):
        trial = _trial(check, None)
        verdict = CheckVerdict(True) if trial is None else await process.try_out(trial)
        if not verdict.passed:
            detail = f"This check cannot be run: {verdict.detail}."
            field = "pattern" if isinstance(check, RegexCheck) else "schema"
            raise InvalidRequest(detail, pointer=f"{place}/checks/{number}/{field}")


async def verdict_on(process: CheckProcess, check: Check, answer: str) -> CheckVerdict:
    """Of every check but a judge's."""
    trial = _trial(check, answer)
    if trial is not None:
        return await process.try_out(trial)
    if isinstance(check, NumberCheck):
        return _number(check, answer)
    assert isinstance(check, ContainsCheck | ExactCheck), "judges are asked elsewhere"
    wanted, text = (part.casefold() if check.ignore_case else part for part in (check.text, answer))
    if isinstance(check, ContainsCheck):
        return CheckVerdict(True) if wanted in text else CheckVerdict(False, f"it lacks {check.text[:_SHOWN]!r}")
    same = wanted.strip() == text.strip()
    return CheckVerdict(True) if same else CheckVerdict(False, f"it is not {check.text[:_SHOWN]!r}")


def _trial(check: Check, answer: str | None) -> Trial | None:
    if isinstance(check, RegexCheck):
        return Trial(pattern=check.pattern, answer=answer)
    return Trial(definition=check.definition, answer=answer) if isinstance(check, JsonSchemaCheck) else None


def _number(check: NumberCheck, answer: str) -> CheckVerdict:
    found = _NUMBER.findall(answer)
    if not found:
        return CheckVerdict(False, "there is no number in it")
    number = float(found[-1].replace(",", ""))
    room = check.tolerance * (abs(check.value) if check.relative else 1.0)
    if abs(number - check.value) <= room:
        return CheckVerdict(True)
    return CheckVerdict(False, f"its last number is {number:g}, not {check.value:g} (give or take {room:g})")
