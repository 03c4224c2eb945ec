"""Two servers on one database and data folder: what one changes, the other serves by itself."""

from __future__ import annotations

import asyncio
import sys

import pytest
from tests.platform.registry.house import House, adapter_files, write_folder

from multiflora_platform.auth.directory import Directory
from multiflora_platform.registry.rows import jobs
from multiflora_platform.registry.schemas.fields import AdapterFields
from multiflora_platform.registry.snapshot.store import SnapshotStore
from multiflora_platform.storage import outbox_follower


@pytest.fixture
async def two(open_house):
    return await open_house(), await open_house()


async def soon(look):
    """look() becomes true by itself."""
    async with asyncio.timeout(30):
        while not look():  # noqa: ASYNC110 - the other server sends no signal
            await asyncio.sleep(0.01)


def test_another_server_looks_more_than_once_a_second():
    assert outbox_follower.POLL_SECONDS <= 0.5


async def test_changes_are_seen(two):
    one, other = two
    await one.adapter("a", 1, 2)
    await soon(lambda: other.registry.resolve("a@2", None))
    headers = {"If-Match": await other.etag("a", "default")}
    assert (await other.admin.put("/adapters/a/aliases/default", json={"version": 2}, headers=headers)).is_success
    await soon(lambda: one.registry.resolve("a", None).version == 2)
    stale = await one.admin.put("/adapters/a/aliases/default", json={"version": 1}, headers=headers)
    assert stale.status_code == 412
    await other.admin.delete("/adapters/a")
    await soon(lambda: one.registry.resolve("a", None) is None)
    assert (await one.admin.get("/adapters")).json()["items"] == []


async def test_a_revoked_key_is_refused_everywhere(two):
    one, other = two
    made = (await one.admin.post("/keys", json={"name": "k", "role": "admin"})).json()
    header = f"Bearer {made['key']}"
    await soon(lambda: other.keys.authenticate(header))
    await other.admin.delete(f"/keys/{made['id']}")
    await soon(lambda: one.keys.authenticate(header) is None)


async def read_and_then(monkeypatch, reader, method, meanwhile):
    """The first time that `reader.method` has read, `meanwhile` runs before the caller gets what was read."""
    original, first = getattr(reader, method), [True]

    async def read(self, *args, **kwargs):
        found = await original(self, *args, **kwargs)
        if first:
            first.clear()
            await meanwhile(self)
        return found

    monkeypatch.setattr(reader, method, read)


async def test_a_key_made_while_another_server_loads_its_keys_is_known_there(open_house, monkeypatch):
    one = await open_house()
    made, looks = [], []

    async def make_and_look(directory):
        made.append(await one.keys.create_key("test", name="k", role="admin", tenant=None))
        looks.append(asyncio.create_task(other.follower.catch_up()))
        await asyncio.wait(looks, timeout=0.1)

    other = House(one.data, one.database_url)
    await read_and_then(monkeypatch, Directory, "_load", make_and_look)
    try:
        await other.open()
        await asyncio.gather(*looks)
        assert other.keys.authenticate(f"Bearer {made[0].key}")
    finally:
        await other.close()


async def test_an_adapter_made_while_another_server_loads_its_snapshot_is_known_there(open_house, monkeypatch):
    one = await open_house()
    looks = []

    async def make_and_look(snapshots):
        await one.registry.adapters.create("late", AdapterFields(), "test")
        looks.append(asyncio.create_task(other.follower.catch_up()))
        await asyncio.wait(looks, timeout=0.1)

    other = House(one.data, one.database_url)
    await read_and_then(monkeypatch, SnapshotStore, "load", make_and_look)
    try:
        await other.open()
        await asyncio.gather(*looks)
        assert other.registry.adapter("late").name == "late"
    finally:
        await other.close()


async def test_parallel_changes_of_both_are_one_order(two):
    one, other = two
    await one.adapter("a", 1)
    await soon(lambda: other.registry.resolve("a", None))
    uploads = [house.upload("a", adapter_files(seed)) for seed in range(2, 8) for house in two]
    answers = await asyncio.gather(*uploads)
    assert sorted(answer.status_code for answer in answers) == [200] * 6 + [201] * 6
    assert sorted(answer.json()["version"] for answer in answers) == sorted([2, 3, 4, 5, 6, 7] * 2)
    for house in two:
        events = (await house.admin.get("/events?limit=1000")).json()["items"]
        assert [event["id"] for event in events] == list(range(1, len(events) + 1))


async def test_an_adapter_of_two_that_start_together_is_registered_once(two, tmp_path):
    folder = write_folder(tmp_path / "given", adapter_files(1))
    await asyncio.gather(*(house.registry.paths.seed("a", folder, AdapterFields()) for house in two))
    for house in two:
        await soon(lambda house=house: house.registry.resolve("a", None))
        (version,) = (await house.admin.get("/adapters/a/versions")).json()["items"]
        assert (version["version"], version["state"]) == (1, "ready")


async def test_a_job_of_a_server_that_hangs_is_taken_over(open_house, monkeypatch):
    stuck = asyncio.Event()

    async def hangs(digest):
        stuck.set()
        await asyncio.Event().wait()

    one = await open_house(prober=hangs)
    await one.adapter("a")
    answer = asyncio.create_task(one.upload("a", adapter_files(1)))
    await stuck.wait()
    one.registry._runner._loop.cancel()  # as if its process hung, too
    other = await open_house()

    async def lapse(change):
        await jobs.end_leases(change, lambda job_id: True)

    await one.registry.database.write("test", lapse)
    assert (await asyncio.wait_for(answer, 60)).status_code == 201
    (job,) = (await other.admin.get("/jobs")).json()["items"]
    assert (job["state"], job["attempts"]) == ("succeeded", 2)


async def test_an_artifact_in_use_by_another_process_stays(open_house, tmp_path):
    house = await open_house()
    await house.adapter("a", 1)
    digest = house.registry.resolve("a", None).digest
    code = (
        "import sys; from pathlib import Path\n"
        "from multiflora_adapters.storage.leases import ArtifactLeases\n"
        "leases = ArtifactLeases(Path(sys.argv[1])); leases.acquire(sys.argv[2])\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    arguments = ("-c", code, str(house.data / ".artifacts.leases"), digest)
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert await process.stdout.readline() == b"held\n"
    await house.admin.delete("/adapters/a")
    await house.registry._artifacts.sweep()
    assert house.store.has(digest)
    process.kill()
    await process.wait()
    await house.registry._artifacts.sweep()
    assert not house.store.has(digest)
