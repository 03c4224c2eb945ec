"""POST and GET …/versions: what is taken, what is refused, and what stays."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import tarfile
import zipfile

import pytest
from tests.platform.registry.house import ADMIN, adapter_files, rejected_files

pytestmark = pytest.mark.sqlite

HASHES = {name: hashlib.sha256(data).hexdigest() for name, data in adapter_files(1).items()}


def tar(files, folder="", mode="w:gz"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(folder + name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zipped(files, folder=""):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(folder + name, data)
    return buffer.getvalue()


async def test_two_files_become_version_one(house):
    await house.adapter("a")
    response = await house.upload("a", adapter_files(1))
    assert response.status_code == 201
    assert response.headers["location"] == "/api/v1/adapters/a/versions/1"
    version = response.json()
    assert (version["version"], version["state"]) == (1, "ready")
    assert {name: file["sha256"] for name, file in version["files"].items()} == HASHES
    assert (await house.admin.get("/adapters/a/versions/1")).json() == version
    assert version["manifest"]["max_rank"] == 2
    stored = house.store.path(version["digest"])
    assert {file.name: file.read_bytes() for file in stored.iterdir()} == adapter_files(1)


async def test_file_names_decide_and_extra_files_are_not_kept(house):
    await house.adapter("a")
    config, weights = adapter_files(1).values()
    parts = [
        ("x", ("folder/adapter_model.safetensors", weights)),
        ("adapter_model.safetensors", ("C:\\mine\\adapter_config.json", config)),
        ("readme", ("README.md", b"hello")),
        ("note", (None, b"a field without a file name")),
    ]
    response = await house.admin.post("/adapters/a/versions", files=parts)
    assert response.status_code == 201, response.text
    assert sorted(response.json()["files"]) == sorted(HASHES)
    assert len(list(house.store.path(response.json()["digest"]).iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.tar.gz", tar(adapter_files(1))),
        ("a.tgz", tar(adapter_files(1), "folder/")),
        ("a.tar", tar({**adapter_files(1), "README.md": b"x"}, mode="w")),
        ("A.ZIP", zipped(adapter_files(1), "folder/")),
    ],
)
async def test_archives(house, name, data):
    await house.adapter("a")
    response = await house.upload("a", {name: data})
    assert response.status_code == 201, response.text
    assert {name: file["sha256"] for name, file in response.json()["files"].items()} == HASHES


@pytest.mark.parametrize(
    ("kind", "data"), [("application/zip", zipped(adapter_files(1))), ("application/gzip", tar(adapter_files(1)))]
)
async def test_an_archive_may_be_the_body_itself(house, kind, data):
    await house.adapter("a")
    response = await house.admin.post("/adapters/a/versions", content=data, headers={"Content-Type": kind})
    assert response.status_code == 201


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"adapter_config.json": b"{}"},
        {"adapter_model.safetensors": b""},
        {"adapter_config.json": b"{}", "adapter_model.bin": b"pickle"},
        {"a.zip": b"no zip"},
        {"a.zip": zipped(adapter_files(1), "../")},
        {"a.tar.gz": tar(adapter_files(1), "/etc/")},
        {"a.tar.gz": tar({"adapter_config.json": b"{}"})},
        {"a.tar.gz": tar(adapter_files(1)), "b.zip": zipped(adapter_files(1))},
        {"a.tar.gz": tar(adapter_files(1)), **adapter_files(1)},
    ],
)
async def test_a_missing_file_or_unsafe_archive_makes_no_version(house, files):
    await house.adapter("a")
    response = await house.upload("a", files or {"README.md": b"x"})
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert (await house.admin.get("/adapters/a/versions")).json()["items"] == []
    assert not [path for path in (house.data / "incoming").iterdir() if path.is_dir()]


async def test_a_file_sent_twice_is_refused(house):
    await house.adapter("a")
    parts = [("f", (name, data)) for name, data in adapter_files(1).items()] * 2
    assert (await house.admin.post("/adapters/a/versions", files=parts)).status_code == 400


async def test_links_in_archives_are_refused(house):
    await house.adapter("a")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        link = tarfile.TarInfo("adapter_config.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    response = await house.upload("a", {"a.tgz": buffer.getvalue()})
    assert response.status_code == 400
    assert "link" in response.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--x\r\n",
        b"--y\r\nContent-Disposition: form-data\r\n\r\n\r\n--y--\r\n",
        b'--x\r\nContent-Disposition: form-data; name="f"; filename="adapter_config.json"\r\n\r\n{',
        b"--x\r\nContent-Disposition: " + b"a" * 20_000 + b"\r\n\r\n\r\n--x--\r\n",
        b"--x\r\nX: y\r\n\r\n\r\n" * 65 + b"--x--\r\n",
    ],
)
async def test_malformed_multipart_is_a_400(house, body):
    await house.adapter("a")
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert (await house.admin.post("/adapters/a/versions", content=body, headers=headers)).status_code == 400


@pytest.mark.parametrize("kind", ["", "text/plain", "multipart/form-data", "application/octet-stream"])
async def test_other_bodies_are_refused(house, kind):
    await house.adapter("a")
    response = await house.admin.post("/adapters/a/versions", content=b"x", headers={"Content-Type": kind})
    assert response.status_code in (400, 415)


async def test_an_upload_over_the_limit_is_refused_before_and_while_reading(open_house):
    house = await open_house(max_upload_bytes=10_000)
    await house.adapter("a")
    read = 0

    async def endless():
        nonlocal read
        yield b'--x\r\nContent-Disposition: form-data; name="f"; filename="adapter_config.json"\r\n\r\n'
        while True:
            read += 1000
            yield b"x" * 1000

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    post = "/adapters/a/versions"
    announced = await house.admin.post(post, content=endless(), headers={**headers, "Content-Length": "10001"})
    assert (announced.status_code, read) == (413, 0)
    assert (await house.admin.post(post, content=endless(), headers=headers)).status_code == 413
    assert read <= 12_000
    assert not [path for path in (house.data / "incoming").iterdir() if path.is_dir()]


async def test_an_archive_that_unpacks_over_the_limit_is_refused(open_house):
    house = await open_house(max_upload_bytes=50_000)
    await house.adapter("a")
    response = await house.upload("a", {"a.tgz": tar({**adapter_files(1), "zeros": bytes(1_000_000)})})
    assert response.status_code == 400
    assert "50000" in response.json()["detail"]


async def test_a_known_digest_answers_with_the_version_there_is(house):
    await house.adapter("a", 1, 2)
    again = await house.upload("a", adapter_files(1))
    assert (again.status_code, again.json()["version"]) == (200, 1)
    assert len((await house.admin.get("/adapters/a/versions")).json()["items"]) == 2
    await house.adapter("b")
    other = await house.upload("b", adapter_files(1))
    assert (other.status_code, other.json()["digest"]) == (201, again.json()["digest"])


async def test_an_upload_brings_back_a_lost_artifact(house):
    await house.adapter("a", 1)
    digest = house.registry.resolve("a", None).digest
    house.store.remove(digest)
    assert (await house.upload("a", adapter_files(1))).status_code == 200
    assert house.store.has(digest)


async def test_a_rejected_upload_stays_as_a_numbered_version(house):
    await house.adapter("a", 1)
    response = await house.upload("a", rejected_files(), params={"promote": "true"})
    assert response.status_code == 422
    problem = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["version"] == 2
    fields = {"check", "severity", "message", "observed", "expected", "hint"}
    assert all(row.keys() == fields for row in problem["rows"])
    assert "error" in {row["severity"] for row in problem["rows"]}
    version = (await house.admin.get("/adapters/a/versions/2")).json()
    assert version["state"] == "rejected"
    report = (await house.admin.get("/adapters/a/versions/2/validation")).json()
    assert report["rows"] == problem["rows"]
    assert house.registry.resolve("a", None).version == 1
    assert house.registry.resolve("a@2", None) is None
    assert len(house.store.digests()) == 1


@pytest.mark.parametrize(
    "files",
    [
        {"adapter_config.json": b"no json", "adapter_model.safetensors": b""},
        {"adapter_config.json": b"{}", "adapter_model.safetensors": b"\xff" * 100},
        adapter_files(1, rank=32),
    ],
)
async def test_content_that_cannot_be_served_is_rejected_with_rows(house, files):
    await house.adapter("a")
    response = await house.upload("a", files)
    assert response.status_code == 422, response.text
    assert any(row["severity"] == "error" for row in response.json()["rows"])
    assert house.registry.resolve("a", None) is None


async def test_the_first_ready_version_is_the_default_and_later_ones_are_not(house):
    await house.adapter("a")
    await house.upload("a", rejected_files())
    await house.upload("a", adapter_files(2))
    assert house.registry.resolve("a", None).version == 2
    await house.upload("a", adapter_files(3))
    assert house.registry.resolve("a", None).version == 2
    response = await house.upload("a", adapter_files(4), params={"promote": "true"})
    assert response.json()["version"] == 4
    assert house.registry.resolve("a", None).version == 4
    assert (await house.upload("a", adapter_files(2), params={"promote": "true"})).status_code == 200
    assert house.registry.resolve("a", None).version == 2


async def test_a_deleted_default_is_not_set_again_by_itself(house):
    await house.adapter("a", 1)
    await house.admin.delete("/adapters/a/aliases/default", headers={"If-Match": "*"})
    await house.upload("a", adapter_files(2))
    assert house.registry.resolve("a", None) is None


async def test_twenty_equal_posts_with_one_key_make_one_version(house):
    await house.adapter("a")
    headers = {"Idempotency-Key": "k1"}
    responses = await asyncio.gather(*(house.upload("a", adapter_files(1), headers=headers) for _ in range(20)))
    assert {response.status_code for response in responses} == {201}
    assert len({response.text for response in responses}) == 1
    assert len((await house.admin.get("/adapters/a/versions")).json()["items"]) == 1


async def test_twenty_equal_posts_without_a_key_make_one_version(house):
    await house.adapter("a")
    responses = await asyncio.gather(*(house.upload("a", adapter_files(1)) for _ in range(20)))
    assert sorted(response.status_code for response in responses) == [200] * 19 + [201]
    assert len((await house.admin.get("/adapters/a/versions")).json()["items"]) == 1


async def test_a_rejection_is_given_again_under_its_key(house):
    await house.adapter("a")
    headers = {"Idempotency-Key": "k1"}
    first, second = [await house.upload("a", rejected_files(), headers=headers) for _ in range(2)]
    assert first.status_code == second.status_code == 422
    assert first.json() == second.json()
    assert len((await house.admin.get("/adapters/a/versions")).json()["items"]) == 1


async def test_another_body_under_a_used_key_is_a_422(house):
    await house.adapter("a")
    await house.adapter("b")
    headers = {"Idempotency-Key": "k1"}
    assert (await house.upload("a", adapter_files(1), headers=headers)).status_code == 201
    other = await house.upload("a", adapter_files(2), headers=headers)
    assert other.status_code == 422
    assert other.json()["type"].endswith("idempotency-mismatch")
    promoted = await house.upload("a", adapter_files(1), headers=headers, params={"promote": "true"})
    assert promoted.status_code == 422
    assert (await house.upload("b", adapter_files(2), headers=headers)).status_code == 201
    assert (await house.upload("a", adapter_files(1), headers=headers)).status_code == 201


async def test_a_request_that_made_nothing_leaves_its_key_free(house):
    await house.adapter("a")
    headers = {"Idempotency-Key": "k1"}
    assert (await house.upload("a", {"README.md": b""}, headers=headers)).status_code == 400
    assert (await house.upload("a", adapter_files(1), headers=headers)).status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_bad_idempotency_keys_are_a_400(house, key):
    await house.adapter("a")
    assert (await house.upload("a", adapter_files(1), headers={"Idempotency-Key": key})).status_code == 400


async def test_an_idempotency_key_survives_a_restart(open_house):
    house = await open_house()
    await house.adapter("a")
    headers = {"Idempotency-Key": "k1"}
    first = await house.upload("a", adapter_files(1), headers=headers)
    await house.close()
    house = await open_house()
    again = await house.upload("a", adapter_files(1), headers=headers)
    assert (again.status_code, again.json()) == (201, first.json())


async def test_versions_are_listed_newest_first_in_pages(house):
    await house.adapter("a", 1, 2, 3, 4, 5)
    seen, token = [], None
    while token is not None or not seen:
        params = {"limit": 2} | ({"page_token": token} if token else {})
        page = (await house.admin.get("/adapters/a/versions", params=params)).json()
        seen += [item["version"] for item in page["items"]]
        token = page["next_page_token"]
    assert seen == [5, 4, 3, 2, 1]


@pytest.mark.parametrize("number", ["2", "0", "-1", "x", "1e3", "9" * 30, "²"])
async def test_unknown_versions_are_a_404(house, number):
    await house.adapter("a", 1)
    for path in (f"/adapters/a/versions/{number}", f"/adapters/a/versions/{number}/validation"):
        assert (await house.admin.get(path)).status_code == 404


async def test_posts_to_an_unknown_adapter_are_a_404(house):
    assert (await house.upload("nobody", adapter_files(1))).status_code == 404


@pytest.mark.parametrize(
    ("distance", "severity"), [(0.5, "info"), (0.0, "warning"), (None, "info"), (RuntimeError("no room"), "warning")]
)
async def test_the_probe_leaves_a_row(open_house, distance, severity):
    probed = []

    async def prober(digest):
        probed.append((digest, house.store.has(digest)))
        if isinstance(distance, Exception):
            raise distance
        return distance

    house = await open_house(prober=prober)
    await house.adapter("a", 1)
    rows = (await house.admin.get("/adapters/a/versions/1/validation")).json()["rows"]
    assert [row["severity"] for row in rows if row["check"] == "probe"] == [severity]
    assert probed == [(house.registry.resolve("a", None).digest, True)]


async def test_an_adapter_that_breaks_the_logits_is_rejected_and_its_artifact_goes(open_house):
    async def prober(digest):
        return float("nan")

    house = await open_house(prober=prober)
    await house.adapter("a")
    assert (await house.upload("a", adapter_files(1))).status_code == 422
    await house.close()
    assert house.store.digests() == []


async def test_a_version_whose_adapter_is_deleted_meanwhile_is_a_404_and_leaves_nothing(open_house):
    probing, release = asyncio.Event(), asyncio.Event()

    async def prober(digest):
        probing.set()
        await release.wait()
        return 1.0

    house = await open_house(prober=prober)
    await house.adapter("a")
    upload = asyncio.create_task(house.upload("a", adapter_files(1)))
    await probing.wait()
    await house.admin.delete("/adapters/a")
    release.set()
    assert (await upload).status_code == 404
    assert house.registry.resolve("a", None) is None
    await house.close()
    assert house.store.digests() == []


async def test_a_full_disk_is_a_507_and_the_number_is_rejected(house, monkeypatch):
    await house.adapter("a")

    def full(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(house.store, "add", full)
    headers = {"Idempotency-Key": "k1"}
    response = await house.upload("a", adapter_files(1), headers=headers)
    assert response.status_code == 507
    assert (await house.admin.get("/adapters/a/versions/1")).json()["state"] == "rejected"
    monkeypatch.undo()
    assert (await house.upload("a", adapter_files(1), headers=headers)).status_code == 201


async def test_a_client_that_goes_away_leaves_nothing_behind(house):
    await house.adapter("a")
    boundary = b'--x\r\nContent-Disposition: form-data; name="f"; filename="adapter_config.json"\r\n\r\n{'
    messages = [{"type": "http.request", "body": boundary, "more_body": True}, {"type": "http.disconnect"}]
    headers = [(b"content-type", b"multipart/form-data; boundary=x"), (b"authorization", f"Bearer {ADMIN}".encode())]
    path = "/api/v1/adapters/a/versions"
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b"", "app": house.app}

    async def receive():
        return messages.pop(0)

    async def send(message):
        pass

    try:
        await house.app(scope, receive, send)
    except Exception as error:
        assert "Disconnect" in repr(error)  # noqa: PT017 - how it surfaces is the web framework's choice
    assert not [folder for folder in (house.data / "incoming").iterdir() if folder.is_dir()]
    assert (await house.admin.get("/adapters/a/versions")).json()["items"] == []


async def test_config_bytes_are_kept_as_they_came(house):
    await house.adapter("a")
    files = adapter_files(1)
    files["adapter_config.json"] = json.dumps(json.loads(files["adapter_config.json"]), indent=7).encode() + b"\n\n"
    digest = (await house.upload("a", files)).json()["digest"]
    assert (house.store.path(digest) / "adapter_config.json").read_bytes() == files["adapter_config.json"]
