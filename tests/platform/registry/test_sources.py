"""JSON sources over HTTP: what a server may read, and what it refuses."""

from __future__ import annotations

import os
from types import SimpleNamespace

import huggingface_hub
import pytest

from .house import adapter_files, write_folder
from .test_version_routes import tar


@pytest.fixture
async def rooted(open_house, tmp_path):
    house = await open_house(source_roots=[tmp_path / "allowed"], max_upload_bytes=100_000)
    write_folder(tmp_path / "allowed" / "sql", adapter_files(1))
    write_folder(tmp_path / "secret", adapter_files(2))
    await house.adapter("a")
    return house


async def post(house, source, **options):
    return await house.admin.post("/adapters/a/versions", json={"source": source}, **options)


async def test_a_folder_below_an_allowed_root(rooted, tmp_path):
    folder = tmp_path / "allowed" / "sql"
    response = await post(rooted, f"file://{folder}")
    assert response.status_code == 201
    assert response.json()["source"] == f"file://{folder}"
    assert (await post(rooted, f"file://{folder}")).status_code == 200
    for file in folder.iterdir():
        file.unlink()
    assert rooted.store.verify(rooted.registry.resolve("a", None).digest)


async def test_an_archive_below_an_allowed_root(rooted, tmp_path):
    (tmp_path / "allowed" / "my adapter.tgz").write_bytes(tar(adapter_files(3), "x/"))
    assert (await post(rooted, f"file://{tmp_path}/allowed/my%20adapter.tgz")).status_code == 201


@pytest.mark.parametrize(
    "path", ["secret", "allowed/../secret", "allowed/link", "allowed/linked", "allowed%2f..%2fsecret"]
)
async def test_nothing_leads_out_of_the_root(rooted, tmp_path, path):
    (tmp_path / "allowed" / "link").symlink_to(tmp_path / "secret")
    linked = tmp_path / "allowed" / "linked"
    linked.mkdir()
    for name in adapter_files():
        (linked / name).symlink_to(tmp_path / "secret" / name)
    response = await post(rooted, f"file://{tmp_path}/{path}")
    assert response.status_code == 403
    assert "--allow-source-root" in response.json()["detail"]
    assert (await rooted.admin.get("/adapters/a/versions")).json()["items"] == []


async def test_without_a_root_nothing_is_read(house, tmp_path):
    await house.adapter("a")
    response = await post(house, f"file://{write_folder(tmp_path / 'x', adapter_files())}")
    assert response.status_code == 403
    assert "--allow-source-root" in response.json()["detail"]


@pytest.mark.parametrize("source", ["http://x/y", "https://x/y", "HTTP://x"])
async def test_web_addresses_are_always_refused(rooted, source):
    assert (await post(rooted, source)).status_code == 403


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("s3://bucket/key", 400),
        ("", 400),
        ("/etc", 400),
        ("ftp://x/y", 400),
        ("file:etc", 400),
        ("file://host/etc", 400),
        ("file:///a%00b", 400),
        ("hf://x", 400),
        ("hf://a/b@../c d", 400),
        ("hf://../b", 400),
        ("file://[", 400),
    ],
)
async def test_other_sources(rooted, source, status):
    assert (await post(rooted, source)).status_code == status


async def test_missing_incomplete_huge_and_special_files(rooted, tmp_path):
    allowed = tmp_path / "allowed"
    assert (await post(rooted, f"file://{allowed}/nothing")).status_code == 404
    assert (await post(rooted, f"file://{allowed}")).status_code == 400
    huge = write_folder(allowed / "huge", adapter_files(4))
    with (huge / "adapter_model.safetensors").open("ab") as file:
        file.truncate(200_000)
    assert (await post(rooted, f"file://{huge}")).status_code == 413
    pipe = write_folder(allowed / "pipe", adapter_files(5))
    (pipe / "adapter_model.safetensors").unlink()
    os.mkfifo(pipe / "adapter_model.safetensors")
    assert (await post(rooted, f"file://{pipe}")).status_code == 400
    assert (await rooted.admin.get("/adapters/a/versions")).json()["items"] == []


async def test_a_source_is_idempotent_by_key_without_being_read_again(rooted, tmp_path):
    folder = tmp_path / "allowed" / "sql"
    headers = {"Idempotency-Key": "k"}
    first = await post(rooted, f"file://{folder}", headers=headers)
    write_folder(folder, adapter_files(9))
    again = await post(rooted, f"file://{folder}", headers=headers)
    assert again.json() == first.json()
    assert (await post(rooted, f"file://{tmp_path}/allowed", headers=headers)).status_code == 422


class Hub:
    """Stands in for the hub: one repository at one commit."""

    commit = "0" * 40

    def __init__(self, monkeypatch, files):
        self.files = files
        self.asked = []
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: self)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.download)

    def model_info(self, repo, revision, files_metadata):
        self.asked.append((repo, revision))
        siblings = [SimpleNamespace(rfilename=name, size=len(data)) for name, data in self.files.items()]
        return SimpleNamespace(sha=self.commit, siblings=siblings)

    def download(self, repo, revision, allow_patterns, local_dir):
        assert revision == self.commit
        return str(write_folder(local_dir, {name: self.files[name] for name in allow_patterns}))


@pytest.mark.parametrize(("source", "revision"), [("hf://org/repo@v1", "v1"), ("hf://org/repo", None)])
async def test_a_hub_source_is_pinned_to_its_commit(rooted, monkeypatch, source, revision):
    hub = Hub(monkeypatch, {**adapter_files(6), "README.md": b"x"})
    response = await post(rooted, source)
    assert response.status_code == 201, response.text
    assert response.json()["source"] == f"hf://org/repo@{hub.commit}"
    assert hub.asked == [("org/repo", revision)]


async def test_a_hub_that_cannot_be_reached_or_is_too_large(rooted, monkeypatch):
    response = await post(rooted, "hf://org/repo@main")
    assert response.status_code == 502
    assert "hf://org/repo@main" in response.json()["detail"]
    Hub(monkeypatch, {"adapter_model.safetensors": bytes(200_000), "adapter_config.json": b"{}"})
    assert (await post(rooted, "hf://org/repo")).status_code == 413
