"""The job runner at its end: what it has claimed by then is given back at once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from multiflora_platform.registry.jobs.runner import JobRunner, Progress
from multiflora_platform.registry.rows import jobs
from multiflora_platform.registry.rows.jobs import ClaimedJob
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.migrations import prepare
from multiflora_platform.storage.tables import AdapterRow, JobRow, VersionRow


async def add_job(change: Change) -> None:
    times = {"created_at": change.now, "updated_at": change.now}
    adapter = AdapterRow(name="a", description="", tags=[], **times)
    change.session.add(adapter)
    await change.session.flush()
    version = VersionRow(
        adapter_id=adapter.id, number=1, state="pending", base_digest="b", source="s", created_by="t", **times
    )
    change.session.add(version)
    await change.session.flush()
    jobs.create(change, "job_1", version, promote=False).run_after = change.now - timedelta(seconds=1)


async def never(claimed: ClaimedJob, _: Progress | Exception) -> None:
    raise AssertionError(f"{claimed.id} is given back, not begun")


async def test_a_job_claimed_while_the_runner_closes_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'db.sqlite3'}"
    prepare(url)
    database = Database.open(url)
    await database.write("test", add_job)
    claiming, closing, claim = asyncio.Event(), asyncio.Event(), jobs.claim

    async def claim_slowly(change: Change, owner: str) -> ClaimedJob | None:
        claiming.set()
        await closing.wait()
        return await claim(change, owner)

    monkeypatch.setattr(jobs, "claim", claim_slowly)
    runner = JobRunner(database, never, never)
    runner.start()
    await claiming.wait()
    close = asyncio.create_task(runner.close())
    await asyncio.sleep(0)  # close has begun, and the claim has not ended
    closing.set()
    await close
    await database.close()  # with the claim's write, had the runner left it behind
    database = Database.open(url)
    async with database.read() as session:
        job = await session.get_one(JobRow, "job_1")
    assert (job.state, job.lease_owner, job.attempts) == ("queued", None, 0)
    await database.close()
