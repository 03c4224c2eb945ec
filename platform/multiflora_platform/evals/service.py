"""What the routes of evals reach as `request.app.state.evals`: the process of the checks, and the runner."""

from __future__ import annotations

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

    async def ask(principal: Principal, url: str, body: dict[str, Any]) -> Response:
        return await persistently(lambda: answer(app, principal, url, body))

    process = CheckProcess()
    runner = EvalRunner(
        services.registry.database,
        Examiner(ask, process),
        services.keys.principal_of,
        lambda: background_width(services.engine),
    )
    services.registry.follower.subscribe(runner.follow)
    return EvalService(process, runner)
