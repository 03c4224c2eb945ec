"""What the routes of evals reach as `request.app.state.evals`: the process of the checks, and the runner."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from multiflora_platform.auth.principals import Principal
from multiflora_platform.evals.asking import Examiner
from multiflora_platform.evals.runner import EvalRunner
from multiflora_platform.evals.verdicts import CheckProcess
from multiflora_platform.gateway.in_process import answer, background_width, persistently
from multiflora_platform.services import Services


@dataclass(frozen=True)
class EvalService:
    process: CheckProcess
    runner: EvalRunner

    async def close(self) -> None:
        await self.runner.close()
        await self.process.close()


def evals_of(request: Request) -> EvalService:
    evals: EvalService = request.app.state.evals
    return evals


def make_eval_service(app: FastAPI, services: Services) -> EvalService:
    """Nothing runs before `runner.start`, and no process before the first pattern or schema."""

    def width() -> int:
        return background_width(services.engine)

    process = CheckProcess()
    examiner = Examiner(_Asking(app, width).ask, process)
    runner = EvalRunner(services.registry.database, examiner, services.keys.principal_of, width)
    services.registry.follower.subscribe(runner.follow)
    return EvalService(process, runner)


class _Asking:
    """`ask` is the examiner's. No more attempts of all runs at once than `width` says; one that has to wait for its
    tenant's limits or for an adapter leaves its turn to other runs."""

    def __init__(self, app: FastAPI, width: Callable[[], int]) -> None:
        self._app = app
        self._width = width
        self._turns = asyncio.Semaphore(0)
        self._size = 0

    async def ask(self, principal: Principal, url: str, body: dict[str, Any]) -> Response:
        return await persistently(lambda: self._attempt(principal, url, body))

    async def _attempt(self, principal: Principal, url: str, body: dict[str, Any]) -> Response:
        # Asked each time: an engine that is starting does not know it yet.
        while self._size < self._width():
            self._size += 1
            self._turns.release()
        async with self._turns:
            return await answer(self._app, principal, url, body)
