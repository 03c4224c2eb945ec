"""s3:// sources against a server that speaks S3 on loopback."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.platform.registry.fake_s3 import FakeS3
from tests.platform.registry.house import adapter_files
from tests.platform.registry.routes.test_versions import tar

from multiflora_platform.registry.rows import jobs

pytestmark = pytest.mark.sqlite

WAIT = {"Prefer": "wait=30"}


@pytest.fixture
def s3(monkeypatch):
    files = {f"models/sql/v1/{name}": data for name, data in adapter_files(1).items()}
    archive = {"models/packed.tar.gz": tar(adapter_files(2), "x/"), "models/sql/v1/deep/README.md": b"not this one"}
    with FakeS3({**files, **archive, "models/empty/readme.txt": b"x"}) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


async def post(house, source):
    return await house.admin.post("/adapters/a/versions", json={"source": source}, headers=WAIT)


async def test_a_folder_and_an_archive(house, s3):
    await house.adapter("a")
    folder = await post(house, "s3://models/sql/v1")
    assert folder.status_code == 201, folder.text
    assert folder.json()["source"].startswith("s3://models/sql/v1#")
    assert not folder.json()["has_card"]
    archive = await post(house, "s3://models/packed.tar.gz")
    assert (archive.status_code, archive.json()["version"]) == (201, 2)


async def test_a_broken_download_goes_on(house, s3, monkeypatch):
    monkeypatch.setattr(jobs, "_FIRST_PAUSE", timedelta(0))
    await house.adapter("a")
    s3.breaks = [10]
    assert (await post(house, "s3://models/sql/v1/")).status_code == 201
    assert s3.ranges[:2] == ["bytes=0-", "bytes=10-"]


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("s3://models/nothing", "holds nothing"),
        ("s3://models/nothing.zip", "does not exist"),
        ("s3://no-such-bucket/x", "does not exist"),
        ("s3://models/empty", "has no adapter_config.json"),
    ],
)
async def test_what_is_not_there_is_rejected(house, s3, source, hint):
    await house.adapter("a")
    response = await post(house, source)
    assert response.status_code == 422
    assert hint in response.json()["rows"][0]["message"]


async def test_wrong_credentials_are_named(house, s3, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "unknown")
    await house.adapter("a")
    response = await post(house, "s3://models/sql/v1")
    assert response.status_code == 422
    assert "AccessDenied" in response.json()["rows"][0]["message"]
