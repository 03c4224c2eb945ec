"""What the routes of files and batches reach as `request.app.state.batches`: the bytes, the rows and the runner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from multiflora_platform.auth.principals import Principal
from multiflora_platform.batches.file_store import FileStore
from multiflora_platform.batches.ledger import Ledger
from multiflora_platform.batches.runner import BatchRunner
from multiflora_platform.gateway.in_process import answer, background_width
from multiflora_platform.services import Services


@dataclass(frozen=True)
class BatchService:
    files: FileStore
    ledger: Ledger
    runner: BatchRunner


def batches_of(request: Request) -> BatchService:
    batches: BatchService = request.app.state.batches
    return batches


def make_batch_service(app: FastAPI, services: Services) -> BatchService:
    """Nothing runs before `runner.start`."""
    files = FileStore(services.settings.data_dir / "files")
    ledger = Ledger(services.registry.database)

    async def answer_one(principal: Principal, url: str, body: dict[str, Any]) -> Response:
        return await answer(app, principal, url, body)

    runner = BatchRunner(
        ledger,
        files,
        answer_one,
        services.keys.principal_of,
        lambda: background_width(services.engine),
        services.settings.max_request_bytes,
    )
    return BatchService(files, ledger, runner)
