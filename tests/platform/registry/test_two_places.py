"""Two servers on one database, each with a data folder of its own: what one has, the other does not look for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.platform.registry.fake_s3 import FakeS3
from tests.platform.registry.house import House, adapter_files, opening

from multiflora_platform.registry.artifacts.s3_origin import S3Origin
from multiflora_platform.storage.database import Change
from multiflora_platform.storage.s3_bucket import S3Bucket
from multiflora_platform.storage.tables import JobRow

pytestmark = pytest.mark.parametrize("backend", ["postgresql"])


class Places:
    """Servers by the names of their folders."""

    def __init__(self, root: Path, url: str, stack: AsyncExitStack) -> None:
        self._root, self._url, self._stack = root, url, stack

    async def open(self, name: str, **options: Any) -> House:
        make = await self._stack.enter_async_context(opening(self._root / name, self._url))
        return await make(**options)


@pytest.fixture
async def places(tmp_path: Path, database_url: str) -> AsyncIterator[Places]:
    async with AsyncExitStack() as stack:
        yield Places(tmp_path, database_url, stack)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    with FakeS3({"shared/of-others": b"x"}) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


class Hanging:
    """A probe that never answers."""

    def __init__(self) -> None:
        self.began = asyncio.Event()

    async def __call__(self, digest: str) -> float:
        self.began.set()
        await asyncio.Event().wait()
        raise AssertionError("nothing sets the event")


async def lapse(change: Change) -> None:
    """As if the processes that hold leases had died long ago."""
    for job in await change.session.scalars(select(JobRow).where(JobRow.state == "running")):
        job.lease_until = datetime(2000, 1, 1, tzinfo=UTC)


async def test_an_upload_is_registered_where_it_was_received_and_ready_for_both(places: Places) -> None:
    one, other = await places.open("one"), await places.open("other")
    await one.adapter("a", *range(4))
    async with asyncio.timeout(30):
        while other.registry.resolve("a@4", None) is None:  # noqa: ASYNC110 - the other server sends no signal
            await asyncio.sleep(0.01)


async def test_an_upload_waits_for_a_server_on_its_folder(places: Places) -> None:
    hanging = Hanging()
    one = await places.open("one", prober=hanging)
    await places.open("other")
    await one.adapter("a")
    answer = asyncio.create_task(one.upload("a", adapter_files(1)))
    await hanging.began.wait()
    one.registry._runner._loop.cancel()  # as if its process hung, too
    await one.database.write("test", lapse)
    await asyncio.sleep(1.5)  # the other looks each second
    assert not answer.done()
    beside = await places.open("one")
    assert (await asyncio.wait_for(answer, 60)).status_code == 201
    assert beside.registry.resolve("a", None) is not None


async def test_with_a_bucket_an_upload_is_taken_over_by_a_server_elsewhere(places: Places, s3: FakeS3) -> None:
    hanging = Hanging()
    one, other = await places.open("one", prober=hanging), await places.open("other")
    one.store.origin = other.store.origin = S3Origin(S3Bucket("shared"))
    await one.adapter("a")
    answer = asyncio.create_task(one.upload("a", adapter_files(1)))
    await hanging.began.wait()
    one.registry._runner._loop.cancel()  # as if its process hung, too
    await one.database.write("test", lapse)
    assert (await asyncio.wait_for(answer, 60)).status_code == 201
    entry = other.registry.resolve("a", None)
    assert entry is not None
    assert other.store.verify(entry.digest)
    assert not list((other.data / "incoming").glob("job_*"))


async def test_without_its_bucket_a_server_takes_no_version(places: Places, s3: FakeS3) -> None:
    one = await places.open("one")
    one.store.origin = S3Origin(S3Bucket("nowhere"))
    await one.adapter("a")
    refused = await one.upload("a", adapter_files(1))
    assert (refused.status_code, "s3://nowhere/: does not exist" in refused.json()["detail"]) == (503, True)
    one.store.origin = S3Origin(S3Bucket("shared"))
    assert (await one.upload("a", adapter_files(1))).status_code == 201


async def test_a_server_that_starts_alone_on_its_folder_leaves_the_others_leases(places: Places) -> None:
    hanging = Hanging()
    one = await places.open("one", prober=hanging)
    await one.adapter("a")
    answer = asyncio.create_task(one.upload("a", adapter_files(1), headers={"Prefer": "wait=0"}))
    await hanging.began.wait()
    await places.open("other")
    async with one.database.read() as session:
        (job,) = await session.scalars(select(JobRow))
    assert job.lease_until > datetime.now(UTC)
    assert (await answer).status_code == 202


async def test_a_version_is_in_the_bucket_before_it_is_ready_and_retired_when_it_goes(
    places: Places, s3: FakeS3
) -> None:
    one, other = await places.open("one"), await places.open("other")
    one.store.origin = other.store.origin = S3Origin(S3Bucket("shared"))
    await one.adapter("a", 1)
    entry = one.registry.resolve("a", None)
    assert entry is not None
    await asyncio.to_thread(other.store.brought, entry.digest)
    assert other.store.verify(entry.digest)
    assert f"shared/retired/{entry.digest}" not in s3.objects
    assert (await one.admin.delete("/adapters/a")).is_success
    async with asyncio.timeout(30):
        while f"shared/retired/{entry.digest}" not in s3.objects:  # noqa: ASYNC110 - S3 sends no signal
            await asyncio.sleep(0.01)
    assert f"shared/artifacts/{entry.digest}/adapter_config.json" in s3.objects
