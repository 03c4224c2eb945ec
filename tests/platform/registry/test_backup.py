"""A backup taken under writes is one moment, whole; it can be put back into either database."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from tests.platform.registry.house import House, adapter_files

from multiflora_platform.registry.backup import BackupFailed, backup, restore


async def contents(house):
    paths = ("/adapters", "/versions", "/jobs", "/audit?limit=1000", "/events?limit=1000", "/keys", "/tenants")
    return [(await house.admin.get(path)).json() for path in paths]


def backup_elsewhere(house, target):
    """As the command line does: its lock keeps other processes from removing artifacts, not its own."""
    code = f"backup({house.database_url!r}, Path({str(house.data)!r}), Path({str(target)!r}))"
    imports = "from pathlib import Path; from multiflora_platform.registry.backup import backup"
    subprocess.run([sys.executable, "-c", f"{imports}; {code}"], check=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def other_database(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'other' / 'multiflora.db'}"
    return request.getfixturevalue("postgres").create()


@pytest.mark.each_database
async def test_all_comes_back(house, tmp_path, other_database):
    await house.adapter("a", 1, 2)
    await house.adapter("gone", 3)
    await house.admin.delete("/adapters/gone")
    await house.tenant("t")
    before = await contents(house)
    made = await asyncio.to_thread(backup, house.database_url, house.data, tmp_path / "backup")
    assert (made.artifacts, len(made.missing)) == (2, 1)
    other = tmp_path / "other"
    await asyncio.to_thread(restore, other_database, other, tmp_path / "backup")
    copy = await House(other, other_database).open()
    try:
        assert await contents(copy) == before
        for number in (1, 2):
            assert copy.store.verify(copy.registry.resolve(f"a@{number}", None).digest)
        assert (await copy.upload("a", adapter_files(5))).json()["version"] == 3
        await copy.adapter("b", 6)
    finally:
        await copy.close()


@pytest.mark.parametrize("has", ["versions", "keys"])
async def test_a_backup_from_another_folder_than_the_databases_is_refused(house, tmp_path, has):
    if has == "versions":
        await house.adapter("a", 1)
    else:
        await house.tenant("t")
    with pytest.raises(BackupFailed, match="elsewhere is not the folder of this database"):
        await asyncio.to_thread(backup, house.database_url, tmp_path / "elsewhere", tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


@pytest.mark.slow
async def test_a_backup_under_writes_names_no_artifact_that_it_lacks(house, tmp_path):
    await house.adapter("a", 0)
    stop = asyncio.Event()

    async def churn(name, seed):
        while not stop.is_set():
            await house.adapter(name, seed)
            await house.admin.delete(f"/adapters/{name}")

    writers = [asyncio.create_task(churn(f"w{i}", i)) for i in range(1, 3)]
    for number in range(2):
        await asyncio.to_thread(backup_elsewhere, house, tmp_path / f"backup{number}")
        database = f"sqlite:///{tmp_path / f'copy{number}' / 'multiflora.db'}"
        await asyncio.to_thread(restore, database, tmp_path / f"copy{number}", tmp_path / f"backup{number}")
        copy = await House(tmp_path / f"copy{number}", database).open()
        for entry in copy.registry.snapshot.adapters.values():
            assert all(copy.store.verify(digest) for digest in entry.digests.values())
        await copy.close()
    stop.set()
    await asyncio.gather(*writers)


async def test_what_cannot_be_restored_is_named(house, tmp_path):
    await house.adapter("a", 1)
    folder = tmp_path / "backup"
    await asyncio.to_thread(backup, house.database_url, house.data, folder)
    with pytest.raises(BackupFailed, match="exists"):
        backup(house.database_url, house.data, folder)
    with pytest.raises(BackupFailed, match="empty"):
        restore(house.database_url, house.data, folder)
    with pytest.raises(BackupFailed, match=r"no backup: backup\.json .* \(No such file or directory\)\."):
        restore(house.database_url, tmp_path / "fresh", tmp_path)
