"""A server killed at any moment of an import leaves a registry that opens clean and ends what was begun."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from tests.platform.registry.fake_hub import FakeHub
from tests.platform.registry.house import adapter_files, rejected_files, write_folder
from tests.platform.registry.intake.crash import POINTS

from multiflora_platform.registry.rows import jobs

CRASH = Path(__file__).with_name("crash.py")
REMOTE = {"fetching", "fetched"}
# Killed before the job was committed, the request had no answer and leaves nothing.
ABSENT = {"copied", "staged", "filing"}


def unfinished(house):
    return [path for path in (house.data / "incoming").iterdir() if path.is_dir()]


async def settled(house):
    """Until no job is left, nor its folder."""
    for job in (await house.admin.get("/jobs")).json()["items"]:
        await house.registry._runner.answer(job["id"], 30.0)
    await asyncio.gather(*house.registry._runner._tasks)


async def crashed(tmp_path, database_url, source, point):
    url = database_url or f"sqlite:///{tmp_path / 'data' / 'multiflora.db'}"
    command = [sys.executable, str(CRASH), str(tmp_path / "data"), url, source, point]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, errors = await process.communicate()
    assert process.returncode == -9, errors.decode()


@pytest.mark.slow
@pytest.mark.parametrize("point", list(POINTS))
async def test_killed(open_house, tmp_path, database_url, point):
    files = adapter_files(1)
    with FakeHub({"org/repo": files}) as hub:
        hub.set_environment()
        local = f"file://{write_folder(tmp_path / 'source', files)}"
        await crashed(tmp_path, database_url, "hf://org/repo" if point in REMOTE else local, point)
        house = await open_house()
        await settled(house)
    found = (await house.admin.get("/adapters/a/versions")).json()["items"]
    if point in ABSENT:
        assert found == []
    else:
        (version,) = found
        assert version["state"] == "ready"
        assert house.registry.resolve("a", None).digest == version["digest"]
    assert unfinished(house) == []
    assert house.store.digests() == [version["digest"] for version in found]
    again = await house.upload("a", files)
    assert again.status_code == (201 if point in ABSENT else 200)
    digest = house.registry.resolve("a", None).digest
    assert house.store.verify(digest)
    assert house.store.digests() == [digest]
    assert not list((house.data / "artifacts").glob(".tmp-*"))


async def test_a_job_that_kills_its_server_each_time_is_given_up(open_house, tmp_path, database_url, monkeypatch):
    source = f"file://{write_folder(tmp_path / 'source', adapter_files(1))}"
    await crashed(tmp_path, database_url, source, "validating")
    monkeypatch.setattr(jobs, "MAX_ATTEMPTS", 1)
    house = await open_house()
    await settled(house)
    (version,) = (await house.admin.get("/adapters/a/versions")).json()["items"]
    assert version["state"] == "rejected"
    (row,) = (await house.admin.get("/adapters/a/versions/1/validation")).json()["rows"]
    assert "Given up" in row["hint"]
    assert (await house.upload("a", adapter_files(1))).status_code == 201


async def test_everything_is_as_it_was_after_a_restart(open_house):
    house = await open_house()
    await house.adapter("a", 1, 2)
    await house.upload("a", rejected_files())
    await house.admin.put("/adapters/a/aliases/x", json={"split": {"1": 40, "2": 60}})
    paths = ("/adapters", "/adapters/a/versions", "/events", "/audit", "/jobs", "/versions")
    before = [(await house.admin.get(path)).json() for path in paths]
    etag = await house.etag("a", "x")
    users = [house.registry.resolve("a@x", f"u{i}") for i in range(50)]
    await house.close()
    house = await open_house()
    assert before == [(await house.admin.get(path)).json() for path in paths]
    assert etag == await house.etag("a", "x")
    assert users == [house.registry.resolve("a@x", f"u{i}") for i in range(50)]


async def test_a_second_server_leaves_the_first_ones_uploads_alone(open_house):
    probing, release = asyncio.Event(), asyncio.Event()

    async def prober(digest):
        probing.set()
        await release.wait()
        return 1.0

    first = await open_house(prober=prober)
    await first.adapter("a")
    upload = asyncio.create_task(first.upload("a", adapter_files(1)))
    await probing.wait()
    (folder,) = unfinished(first)
    second = await open_house()
    assert folder.exists()
    assert (await second.admin.get("/adapters/a/versions/1")).json()["state"] == "validating"
    release.set()
    assert (await upload).status_code == 201
    await second.registry.follower.catch_up()
    assert second.registry.resolve("a", None) == first.registry.resolve("a", None)
    assert unfinished(first) == []


async def test_the_sweep_removes_folders_of_ended_jobs_only(open_house):
    """Of a server that was killed between its commit and its cleaning, while others lived on."""
    house = await open_house()
    await house.adapter("a", 1)
    (job,) = (await house.admin.get("/jobs")).json()["items"]
    left = write_folder(house.data / "incoming" / job["id"], adapter_files(1))
    filing = write_folder(house.data / "incoming" / jobs.new_id(), adapter_files(2))
    await house.registry._sweeper.sweep()
    assert (left.exists(), filing.exists()) == (False, True)


async def test_the_data_folder_is_private(open_house, backend):
    house = await open_house()
    await house.adapter("a", 1)
    modes = {path.name: path.stat().st_mode & 0o777 for path in house.data.iterdir()}
    assert modes.pop("artifacts") == modes.pop("incoming") == 0o700
    assert "secret" in modes
    if backend == "sqlite":
        assert {"multiflora.db", "multiflora.db-wal"} <= modes.keys()
    assert set(modes.values()) == {0o600}
    assert house.data.stat().st_mode & 0o777 == 0o700
