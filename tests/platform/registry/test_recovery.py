"""A server killed at any moment of an upload leaves a registry that opens clean and takes the upload again."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from multiflora_platform.registry.tables import Version

from .house import adapter_files, write_folder

CRASH = Path(__file__).with_name("crash.py")


def unfinished(house):
    return [path for path in (house.data / "incoming").iterdir() if path.is_dir()]


@pytest.mark.parametrize("point", ["validating", "storing", "stored", "recording", "recorded"])
async def test_killed(open_house, tmp_path, point):
    source = write_folder(tmp_path / "source", adapter_files(1))
    command = [sys.executable, str(CRASH), str(tmp_path / "data"), str(source), point]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, errors = await process.communicate()
    assert process.returncode == -9, errors.decode()

    house = await open_house()
    assert unfinished(house) == []
    (version,) = (await house.admin.get("/adapters/a/versions")).json()["items"]
    if point == "recorded":
        assert version["state"] == "ready"
        assert house.registry.resolve("a", None).digest == version["digest"]
    else:
        assert version["state"] == "rejected"
        assert house.store.digests() == []
        assert house.registry.resolve("a", None) is None
        report = (await house.admin.get("/adapters/a/versions/1/validation")).json()
        assert report["rows"][0]["check"] == "interrupted"
    again = await house.upload("a", adapter_files(1))
    assert again.status_code == (200 if point == "recorded" else 201)
    resolved = house.registry.resolve("a", None)
    assert house.store.verify(resolved.digest)
    assert house.store.digests() == [resolved.digest]


async def test_everything_is_as_it_was_after_a_restart(open_house):
    house = await open_house()
    await house.adapter("a", 1, 2)
    await house.admin.put("/adapters/a/aliases/x", json={"split": {"1": 40, "2": 60}})
    before = [
        (await house.admin.get(path)).json() for path in ("/adapters", "/adapters/a/versions", "/events", "/audit")
    ]
    etag = await house.etag("a", "x")
    users = [house.registry.resolve("a@x", f"u{i}") for i in range(50)]
    await house.close()
    house = await open_house()
    assert before == [
        (await house.admin.get(path)).json() for path in ("/adapters", "/adapters/a/versions", "/events", "/audit")
    ]
    assert etag == await house.etag("a", "x")
    assert users == [house.registry.resolve("a@x", f"u{i}") for i in range(50)]


async def test_a_second_server_leaves_the_first_ones_uploads_alone(open_house):
    first = await open_house()
    await first.adapter("a", 1)
    folder = write_folder(first.data / "incoming" / "running", adapter_files(1))

    async def stuck(change):
        change.session.add(
            Version(adapter_id=1, number=2, state="validating", base_digest="b", source="upload", created_by="t",
                    created_at=change.now, updated_at=change.now)
        )  # fmt: skip

    await first.registry.database.write("test", stuck)
    second = await open_house()
    assert folder.exists()
    assert (await second.admin.get("/adapters/a/versions/2")).json()["state"] == "validating"
    await second.close()
    await first.close()
    third = await open_house()
    assert not folder.exists()
    assert (await third.admin.get("/adapters/a/versions/2")).json()["state"] == "rejected"


async def test_the_data_folder_is_private(open_house, tmp_path):
    house = await open_house()
    await house.adapter("a", 1)
    modes = {path.name: path.stat().st_mode & 0o777 for path in house.data.iterdir()}
    assert modes.pop("artifacts") == modes.pop("incoming") == 0o700
    assert {"multiflora.db", "multiflora.db-wal", "secret"} <= modes.keys()
    assert set(modes.values()) == {0o600}
    assert house.data.stat().st_mode & 0o777 == 0o700
