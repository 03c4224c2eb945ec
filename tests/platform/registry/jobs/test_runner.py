"""The job runner while there are no jobs, and at its end: what it has claimed by then is given back at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from multiflora_platform.registry.jobs import runner as job_runner
from multiflora_platform.registry.jobs.runner import JobRunner, Progress
from multiflora_platform.registry.rows import jobs
from multiflora_platform.registry.rows.idempotency import StoredAnswer
from multiflora_platform.registry.rows.jobs import ClaimedJob
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.migrations import prepare
from multiflora_platform.storage.tables import AdapterRow, JobRow, VersionRow
from multiflora_platform.web.problems import InsufficientStorage


async def add_job(change: Change, number: int = 1, owner: str | None = None) -> None:
    times = {"created_at": change.now, "updated_at": change.now}
    adapter = AdapterRow(name=f"a{number}", description="", tags=[], owner=owner, **times)
    change.session.add(adapter)
    await change.session.flush()
    version = VersionRow(
        adapter_id=adapter.id, number=1, state="pending", base_digest="b", source="s", created_by="t", **times
    )
    change.session.add(version)
    await change.session.flush()
    jobs.create(change, f"job_{number}", version, promote=False).run_after = change.now - timedelta(seconds=1)


async def end(change: Change, job_id: str) -> None:
    jobs.finish(change, await change.session.get_one(JobRow, job_id), StoredAnswer(201, {}))


async def never(claimed: ClaimedJob, _: Progress | Exception) -> None:
    raise AssertionError(f"{claimed.id} is given back, not begun")


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'db.sqlite3'}"
    prepare(url)
    return url


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    database = Database.open(url)
    yield database
    await database.close()


async def test_without_unfinished_jobs_the_runner_rests_until_it_is_told_of_one(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, begun, looks, is_any_due = asyncio.Event(), asyncio.Event(), 0, jobs.is_any_due

    async def look(session: AsyncSession, held: Collection[str], has_files: jobs.HasFiles) -> bool | None:
        nonlocal looks
        looks += 1
        looked.set()
        return await is_any_due(session, held, has_files)

    async def begin(claimed: ClaimedJob, _: Progress) -> None:
        begun.set()

    monkeypatch.setattr(jobs, "is_any_due", look)
    monkeypatch.setattr(job_runner, "LOOK_SECONDS", 0.001)
    runner = JobRunner(database, begin, never)
    runner.start()
    await looked.wait()
    await asyncio.sleep(0.1)
    assert looks == 1
    await database.write("test", add_job)
    runner.kick()
    async with asyncio.timeout(30):
        await begun.wait()
    await runner.close()


async def test_a_runner_that_has_as_many_jobs_as_it_may_takes_the_next_when_one_has_ended(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: asyncio.Queue[str] = asyncio.Queue()

    async def begin(claimed: ClaimedJob, _: Progress) -> None:
        begun.put_nowait(claimed.id)
        await database.write("test", lambda change: end(change, claimed.id))

    monkeypatch.setattr(job_runner, "AT_ONCE", 1)
    monkeypatch.setattr(job_runner, "LOOK_SECONDS", 3600.0)
    for number in (1, 2):
        await database.write("test", lambda change, number=number: add_job(change, number))
    runner = JobRunner(database, begin, never)
    runner.start()
    async with asyncio.timeout(30):
        assert [await begun.get(), await begun.get()] == ["job_1", "job_2"]
    await runner.close()


@pytest.mark.parametrize("owner", ["acme", None])
async def test_one_owners_slow_imports_leave_room_for_others(database: Database, owner: str | None) -> None:
    begun: asyncio.Queue[str] = asyncio.Queue()
    go_on = asyncio.Event()

    async def work(claimed: ClaimedJob, _: Progress) -> None:
        begun.put_nowait(claimed.id)
        if claimed.id != "job_9":
            await go_on.wait()
        await database.write("test", lambda change: end(change, claimed.id))

    async def add(change: Change) -> None:
        for number in range(1, jobs.AT_ONCE_OF_AN_OWNER + 2):
            await add_job(change, number, owner)
        await add_job(change, 9, "other")

    await database.write("test", add)
    runner = JobRunner(database, work, never)
    runner.start()
    slow = [f"job_{number}" for number in range(1, jobs.AT_ONCE_OF_AN_OWNER + 2)]
    async with asyncio.timeout(30):
        first = [await begun.get() for _ in range(jobs.AT_ONCE_OF_AN_OWNER + 1)]
        assert sorted(first) == [*slow[:-1], "job_9"]
        assert await runner.answer("job_9", 30) is not None
        assert begun.empty()
        go_on.set()
        assert await begun.get() == slow[-1]
        for job_id in slow:
            assert await runner.answer(job_id, 30) is not None
    await runner.close()


async def test_a_job_is_not_begun_beside_an_attempt_of_the_same_process_whose_lease_ended(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: asyncio.Queue[str] = asyncio.Queue()
    go_on = asyncio.Event()

    async def work(claimed: ClaimedJob, _: Progress) -> None:
        begun.put_nowait(claimed.id)
        await go_on.wait()
        await database.write("test", lambda change: end(change, claimed.id))

    async def end_leases_and_add_another(change: Change) -> None:
        await jobs.end_leases(change, lambda job_id: True)
        await add_job(change, 2)

    monkeypatch.setattr(job_runner, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(job_runner, "HEARTBEAT_SECONDS", 3600.0)
    await database.write("test", add_job)
    runner = JobRunner(database, work, never)
    runner.start()
    async with asyncio.timeout(30):
        assert await begun.get() == "job_1"
        await database.write("test", end_leases_and_add_another)
        assert await begun.get() == "job_2"
        go_on.set()
        assert (await runner.answer("job_1", 30)) is not None
    await runner.close()
    async with database.read() as session:
        assert (await session.get_one(JobRow, "job_1")).attempts == 1


async def test_a_full_disk_under_the_database_ends_no_attempt(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    beaten, go_on = asyncio.Event(), asyncio.Event()
    heartbeat, full, attempts = jobs.heartbeat, [True, True], 0

    async def work(claimed: ClaimedJob, progress: Progress) -> None:
        nonlocal attempts
        attempts += 1
        progress.done = 1  # so that each heartbeat has something to write
        await go_on.wait()
        await database.write("test", lambda change: end(change, claimed.id))

    async def beat(change: Change, claimed: ClaimedJob, done: int, total: int | None) -> None:
        if full:
            full.pop()
            raise InsufficientStorage("full")
        await heartbeat(change, claimed, done, total)
        beaten.set()

    monkeypatch.setattr(job_runner, "HEARTBEAT_SECONDS", 0.001)
    monkeypatch.setattr(jobs, "heartbeat", beat)
    await database.write("test", add_job)
    runner = JobRunner(database, work, never)
    runner.start()
    async with asyncio.timeout(30):
        await beaten.wait()
        go_on.set()
        assert await runner.answer("job_1", 30) == StoredAnswer(201, {})
    await runner.close()
    assert attempts == 1


async def test_a_job_of_another_runner_keeps_the_runners_looking(database: Database) -> None:
    async def state() -> bool | None:
        async with database.read() as session:
            return await jobs.is_any_due(session, ())

    assert await state() is None
    await database.write("test", add_job)
    assert await state() is True
    claimed = await database.write("test", lambda change: jobs.claim(change, "another", ()))
    assert claimed is not None
    assert await state() is False
    await database.write("test", lambda change: jobs.end_leases(change, lambda job_id: True))
    assert await state() is True

    await database.write("test", lambda change: end(change, claimed.id))
    assert await state() is None


async def test_a_job_whose_files_another_host_has_is_left_to_that_one(database: Database) -> None:
    async def uploaded(change: Change) -> None:
        await add_job(change)
        (await change.session.get_one(VersionRow, 1)).state = "validating"

    await database.write("test", uploaded)
    async with database.read() as session:
        assert await jobs.is_any_due(session, (), lambda job_id: False) is False
        assert await jobs.is_any_due(session, (), lambda job_id: job_id == "job_1") is True
    claimed = await database.write("test", lambda change: jobs.claim(change, "elsewhere", (), lambda job_id: False))
    assert claimed is None


async def test_a_job_claimed_while_the_runner_closes_is_given_back(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database.open(url)
    await database.write("test", add_job)
    claiming, closing, claim = asyncio.Event(), asyncio.Event(), jobs.claim

    async def claim_slowly(
        change: Change, owner: str, held: Collection[str], has_files: jobs.HasFiles
    ) -> ClaimedJob | None:
        claiming.set()
        await closing.wait()
        return await claim(change, owner, held, has_files)

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
