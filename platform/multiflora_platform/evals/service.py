"""What the routes of evals reach as `request.app.state.evals`: the process of the checks, and the runner."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from multiflora_platform.evals.asking import Examiner
from multiflora_platform.evals.runner import EvalRunner
from multiflora_platform.evals.verdicts import CheckProcess
from multiflora_platform.gateway.in_process import BackgroundTurns
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


def make_eval_service(turns: BackgroundTurns, services: Services) -> EvalService:
    """Nothing runs before `runner.start`, and no process before the first pattern or schema."""
    process = CheckProcess()
    examiner = Examiner(turns.answer, process)
    runner = EvalRunner(services.registry.database, examiner, services.keys.principal_of, lambda: turns.width)
    services.registry.follower.subscribe(runner.follow)
    return EvalService(process, runner)
