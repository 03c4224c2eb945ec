"""An artifact store that hosts share: what one adds another brings, and nothing goes that something needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.platform.registry.fake_s3 import FakeS3
from tests.platform.registry.house import adapter_files, write_folder

from multiflora_adapters.store import ArtifactStore
from multiflora_platform.registry.artifacts.opening import open_store
from multiflora_platform.registry.artifacts.s3_origin import S3Origin
from multiflora_platform.settings import ConfigurationError
from multiflora_platform.storage.s3_bucket import S3Bucket

ADDRESS = "s3://shared/team"


class Clock:
    now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    with FakeS3({"shared/of-others": b"x"}) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def stores(s3: FakeS3, tmp_path: Path) -> tuple[ArtifactStore, ArtifactStore]:
    """Of two hosts."""
    return open_store(tmp_path / "one", ADDRESS), open_store(tmp_path / "other", ADDRESS)


def added(store: ArtifactStore, tmp_path: Path, seed: int = 1) -> str:
    return store.add(write_folder(tmp_path / "upload", adapter_files(seed))).digest


def test_what_one_host_adds_another_brings_once(
    s3: FakeS3, stores: tuple[ArtifactStore, ArtifactStore], tmp_path: Path
) -> None:
    one, other = stores
    digest = added(one, tmp_path)
    assert not other.has(digest)
    s3.breaks = [10]
    assert other.brought(digest) == other.path(digest)
    assert other.has(digest)
    assert other.verify(digest)
    asked = len(s3.ranges)
    other.brought(digest)
    assert len(s3.ranges) == asked
    added(other, tmp_path)
    assert len(s3.puts) == 2, "what is there is not sent again"


def test_what_nobody_has_is_told_from_what_cannot_be_reached(
    s3: FakeS3, stores: tuple[ArtifactStore, ArtifactStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = stores
    with pytest.raises(FileNotFoundError):
        other.brought("0" * 64)
    digest = added(one, tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stranger")
    stranger = open_store(tmp_path / "stranger", ADDRESS)
    with pytest.raises(OSError, match="may not be used with this server's AWS credentials"):
        stranger.brought(digest)
    with pytest.raises(OSError, match="may not be used"):
        added(stranger, tmp_path, seed=2)
    assert stranger.digests() == [], "what the others cannot bring is not kept here alone"


@pytest.mark.parametrize("damage", ["other", "cut"])
def test_what_is_damaged_there_does_not_come_in(
    s3: FakeS3, stores: tuple[ArtifactStore, ArtifactStore], tmp_path: Path, damage: str
) -> None:
    one, other = stores
    digest = added(one, tmp_path)
    key = f"shared/team/artifacts/{digest}/adapter_model.safetensors"
    s3.objects[key] = adapter_files(2)["adapter_model.safetensors"] if damage == "other" else s3.objects[key][:50]
    with pytest.raises(OSError, match="other content" if damage == "other" else "damaged"):
        other.brought(digest)
    assert other.digests() == []
    assert not list((tmp_path / "other" / "artifacts").glob(".tmp-*"))


def test_what_is_purged_stays_for_a_day_and_longer_where_it_is_needed_again(
    s3: FakeS3, stores: tuple[ArtifactStore, ArtifactStore], tmp_path: Path
) -> None:
    one, other = stores
    clock = Clock()
    origin = S3Origin(S3Bucket("shared", "team"), clock)
    purged, needed, back = (added(one, tmp_path, seed) for seed in (1, 2, 3))
    for digest in (purged, needed, back):
        origin.retire(digest)
    clock.now += 24 * 3600 - 1
    origin.sweep({needed})
    assert other.brought(purged)
    one.remove(back)
    added(one, tmp_path, seed=3)
    clock.now += 2
    origin.sweep({needed})
    kept = {key.split("/")[3] for key in s3.objects if "/artifacts/" in key}
    assert kept == {needed, back}
    assert not [key for key in s3.objects if "/retired/" in key]
    assert s3.objects["shared/of-others"] == b"x"


def test_what_is_lent_goes_after_a_day_unless_a_version_comes_to_need_it(
    s3: FakeS3, stores: tuple[ArtifactStore, ArtifactStore], tmp_path: Path
) -> None:
    """A server that dies between the files and the row of a job leaves nothing for ever."""
    clock = Clock()
    origin = S3Origin(S3Bucket("shared", "team"), clock)
    needed, left = (added(ArtifactStore(tmp_path / "made"), tmp_path, seed) for seed in (1, 2))
    for digest in (needed, left):
        origin.lend(digest, tmp_path / "made" / digest)
    origin.put(needed, tmp_path / "made" / needed)
    assert len([key for key in s3.puts if "/artifacts/" in key]) == 4, "what was lent is not sent again"
    clock.now += 24 * 3600 + 1
    origin.sweep({needed})
    assert stores[0].brought(needed)
    with pytest.raises(FileNotFoundError):
        stores[0].brought(left)


@pytest.mark.parametrize("address", ["shared/team", "https://shared", "s3://", "s3://Shared", "s3://a_b/c"])
def test_what_is_no_store(tmp_path: Path, address: str) -> None:
    with pytest.raises(ConfigurationError, match="give s3://bucket or s3://bucket/folder"):
        open_store(tmp_path, address)


def test_a_folder_that_is_no_cache_has_no_limit(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--artifact-cache-bytes needs --artifact-store"):
        open_store(tmp_path, None, 1)


def test_a_bucket_that_is_not_there_is_told(s3: FakeS3) -> None:
    with pytest.raises(OSError, match=r"s3://nowhere/: does not exist"):
        S3Origin(S3Bucket("nowhere")).check()
