"""What the routes of files and batches reach as `request.app.state.batches`: the bytes, the rows and the runner."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from fastapi import Request

from multiflora_platform.batches import claims
from multiflora_platform.batches.bucket_files import BucketFiles
from multiflora_platform.batches.folder_files import FolderFiles
from multiflora_platform.batches.ledger import Ledger
from multiflora_platform.batches.runner import BatchRunner
from multiflora_platform.batches.stored_files import FileStore
from multiflora_platform.batches.work import ACTOR, BatchMeans
from multiflora_platform.gateway.in_process import BackgroundTurns
from multiflora_platform.services import Services
from multiflora_platform.storage.database import Database
from multiflora_platform.storage.s3_bucket import shared_bucket

_log = logging.getLogger(__name__)
_SWEEP_SECONDS = 3600.0


@dataclass
class BatchService:
    """`start` it, and `close` it."""

    database: Database
    files: FileStore
    ledger: Ledger
    runner: BatchRunner
    _sweeping: asyncio.Task[None] | None = field(default=None, init=False)

    async def start(self) -> None:
        """Begins with what an earlier process left."""
        if self.database.direct is None:  # SQLite, whose file one server uses
            await self.database.write(ACTOR, claims.end_leases)
        self.runner.start()
        self._sweeping = asyncio.create_task(self._sweep_regularly())

    async def close(self) -> None:
        await self.runner.close()
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)

    async def sweep(self) -> None:
        """Lets go the bytes that no row names."""
        await self.files.sweep(*await self.ledger.recorded())

    async def _sweep_regularly(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            try:
                await self.sweep()
            except Exception:
                _log.exception("files of batches that no one needs stay for now")


def batches_of(request: Request) -> BatchService:
    batches: BatchService = request.app.state.batches
    return batches


def make_batch_service(turns: BackgroundTurns, services: Services) -> BatchService:
    """Nothing runs before `start`. Raises ConfigurationError."""
    settings, database = services.settings, services.registry.database
    folder = FolderFiles(settings.data_dir / "files")
    bucket = shared_bucket(settings.artifact_store)
    files: FileStore = folder if bucket is None else BucketFiles(bucket, folder)

    means = BatchMeans(
        database,
        files,
        turns.answer,
        services.keys.principal_of,
        lambda: turns.width,
        settings.max_request_bytes,
    )

    def is_in_reach(file_id: str, digest: str | None) -> bool:
        # Where there is one server, no other has what it lacks: the batch is to fail.
        return database.direct is None or files.is_in_reach(file_id, digest)

    runner = BatchRunner(means, is_in_reach)
    services.registry.follower.subscribe(runner.follow)
    return BatchService(database, files, Ledger(database), runner)
