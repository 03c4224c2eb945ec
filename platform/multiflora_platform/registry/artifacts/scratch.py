"""Folders for files on their way in: a request's while it receives them, a job's until its version is made.

All below one root in the data folder, which every process of this data folder shares.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from multiflora_platform.storage.connections import private_folder


class Scratch:
    """A job's folder is named by the job's id, so that any process that runs the job finds it."""

    def __init__(self, root: Path) -> None:
        self.root = private_folder(root)

    @asynccontextmanager
    async def folder(self) -> AsyncIterator[Path]:
        """As long as one request."""
        folder = private_folder(self.root / secrets.token_hex(8))
        try:
            yield folder
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def of_job(self, job_id: str) -> Path:
        return self.root / job_id

    def has_job(self, job_id: str) -> bool:
        """Whether the job's files are here."""
        return self.of_job(job_id).is_dir()

    def job_ids(self) -> list[str]:
        """Of the jobs that have a folder."""
        return [entry.name for entry in self.root.iterdir() if entry.name.startswith("job_")]

    def adopt(self, received: Path, job_id: str) -> Path:
        """What a request received becomes its job's, on the disk for good. Blocks: call in a thread."""
        for file in received.iterdir():
            _sync(file)
        _sync(received)
        folder = self.of_job(job_id)
        received.rename(folder)
        _sync(self.root)
        return folder

    def make(self, job_id: str) -> Path:
        """The job's folder, also when an earlier attempt left it half full."""
        return private_folder(self.of_job(job_id))

    async def remove(self, job_id: str) -> None:
        await asyncio.to_thread(shutil.rmtree, self.of_job(job_id), ignore_errors=True)

    def clear(self, jobs: Collection[str]) -> None:
        """At the start of the only process: keep what unfinished jobs need."""
        for entry in self.root.iterdir():
            if entry.is_dir() and entry.name not in jobs:
                shutil.rmtree(entry, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
