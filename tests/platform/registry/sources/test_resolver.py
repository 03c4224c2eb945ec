"""JSON sources over HTTP: what a server may read, and what it refuses."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
from tests.platform.registry.fake_hub import COMMIT, FakeHub
from tests.platform.registry.house import adapter_files, write_folder
from tests.platform.registry.routes.test_versions import tar

from multiflora_platform.registry.rows import jobs
from multiflora_platform.registry.snapshot.version_names import names_of
from multiflora_platform.registry.sources.resolver import adapter_source

pytestmark = pytest.mark.sqlite


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
        ("s3://bucket", 400),
        ("s3://../key", 400),
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


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("s3://b/x", "3 to 63 lower-case letters, digits, dots and dashes; s3://b/x has none"),
        ("s3://My_Bucket/x", "s3://My_Bucket/x has none"),
        ("s3:///x", "digits, dots and dashes; s3:///x has none"),
        ("s3://bucket/", "s3://bucket/folder or s3://bucket/adapter.tar.gz; no folder is named"),
        ("s3://bucket/a\nb", "this key has control characters"),
    ],
)
async def test_what_is_wrong_with_an_s3_address_is_told(rooted, source, told):
    assert told in (await post(rooted, source)).json()["detail"]


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


@pytest.fixture
def hub():
    with FakeHub({"org/repo": {**adapter_files(6), "README.md": b"# A card", "other.bin": b"x"}}) as hub:
        yield hub


WAIT = {"Prefer": "wait=20"}


@pytest.mark.parametrize("source", ["hf://org/repo@v1", "hf://org/repo"])
async def test_a_hub_source_is_pinned_to_its_commit(rooted, hub, source):
    response = await post(rooted, source, headers=WAIT)
    assert response.status_code == 201, response.text
    assert response.json()["source"] == f"hf://org/repo@{COMMIT}"
    assert response.json()["has_card"]
    revision = f"/revision/{source.partition('@')[2]}" if "@" in source else ""
    assert f"/api/models/org/repo{revision}" in [path.partition("?")[0] for path, _ in hub.asked]
    assert not any("other.bin" in path for path, _ in hub.asked)
    again = await post(rooted, source, headers=WAIT)
    assert (again.status_code, again.json()["version"]) == (200, 1)
    assert (await rooted.admin.get("/adapters/a/versions/2")).json()["state"] == "archived"


async def test_a_hub_source_is_a_job_to_poll(rooted, hub):
    response = await post(rooted, "hf://org/repo")
    assert response.status_code == 202
    body = response.json()
    assert (body["version"], body["job"]["version"]) == (1, 1)
    assert response.headers["location"] == "/api/v1/adapters/a/versions/1"
    await rooted.registry._runner.answer(body["job"]["id"], 20)
    job = (await rooted.admin.get(f"/jobs/{body['job']['id']}")).json()
    size = sum(len(data) for name, data in hub.repositories["org/repo"].items() if name != "other.bin")
    assert (job["state"], job["version_state"], job["attempts"]) == ("succeeded", "ready", 1)
    assert (await rooted.admin.get("/adapters/a/versions/1")).json()["state"] == "ready"
    assert job["progress"]["total_bytes"] in (None, size)


async def test_an_import_has_its_versions_name_while_its_evals_run(open_house, hub):
    seen = []

    async def answer(digest, one):
        seen.append(names_of(house.registry.snapshot, digest).versions)
        return "yes"

    house = await open_house(answer_eval=answer)
    await house.adapter("a")
    evals = [{"prompt": "?", "contains": ["yes"]}]
    body = {"source": "hf://org/repo", "evals": evals}
    response = await house.admin.post("/adapters/a/versions", json=body, headers=WAIT)
    assert (response.status_code, seen) == (201, [["a@1"]]), response.text


async def test_a_connection_that_breaks_is_gone_on_with_where_it_stopped(rooted, hub, monkeypatch):
    monkeypatch.setattr(jobs, "_FIRST_PAUSE", timedelta(0))
    hub.breaks = [10]
    response = await post(rooted, "hf://org/repo", headers=WAIT)
    assert (response.status_code, response.json()["state"]) == (201, "ready")
    (job,) = (await rooted.admin.get("/jobs")).json()["items"]
    assert job["attempts"] == 2
    assert "bytes=10-" in [asked for _, asked in hub.asked]


@pytest.mark.parametrize(("source", "hint"), [("hf://org/nothing@main", "does not exist"), ("hf://org/huge", "limit")])
async def test_a_hub_source_that_cannot_be_had_is_rejected_at_once(rooted, hub, source, hint):
    hub.repositories["org/huge"] = {"adapter_model.safetensors": bytes(200_000), "adapter_config.json": b"{}"}
    response = await post(rooted, source, headers=WAIT)
    assert response.status_code == 422
    (row,) = response.json()["rows"]
    assert row["check"] == "source"
    assert hint in row["message"]


async def test_an_unreachable_hub_is_tried_again_and_then_given_up(rooted, hub, monkeypatch):
    monkeypatch.setattr(jobs, "_FIRST_PAUSE", timedelta(0))
    hub._server.server_close()
    response = await post(rooted, "hf://org/repo@main", headers=WAIT)
    assert response.status_code == 422
    (row,) = response.json()["rows"]
    assert "hf://org/repo@main could not be fetched" in row["message"]
    assert f"{jobs.MAX_ATTEMPTS} attempts" in row["hint"]


@pytest.mark.parametrize(
    ("given", "source"),
    [
        ("org/adapter", "hf://org/adapter"),
        ("org/adapter@v2", "hf://org/adapter@v2"),
        ("s3://bucket/adapter", "s3://bucket/adapter"),
        ("hf://org/adapter", "hf://org/adapter"),
        ("/no/such/folder", "/no/such/folder"),
        ("./org", "./org"),
        ("../org", "../org"),
    ],
)
def test_where_an_adapter_comes_from(given, source):
    assert adapter_source(given) == source


def test_a_folder_is_not_taken_for_a_hub_id(tmp_path, monkeypatch):
    (tmp_path / "org" / "adapter").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert adapter_source("org/adapter") == "org/adapter"
