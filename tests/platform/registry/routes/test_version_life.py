"""What people say about versions, how versions are found, and how they end: archived, restored, purged."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
from tests.platform.registry.house import adapter_files, rejected_files

pytestmark = pytest.mark.sqlite

CARD = """---
license: apache-2.0
tags: [sql]
---
# Text to SQL <script>alert(1)</script>

| a | b |
|---|---|
| 1 | 2 |

[bad](javascript:alert(1)) <img src=x onerror=alert(1)>
"""


async def upload(house, name, seed, metadata=None, **files):
    parts = [("file", (file, data)) for file, data in {**adapter_files(seed), **files}.items()]
    data = {"metadata": json.dumps(metadata)} if metadata is not None else {}
    return await house.admin.post(f"/adapters/{name}/versions", files=parts, data=data)


async def numbers(house, path="/adapters/a/versions", **params):
    return [item["version"] for item in (await house.admin.get(path, params=params)).json()["items"]]


async def test_facts_of_a_version(house):
    await house.adapter("a", 1)
    facts = (await house.admin.get("/adapters/a/versions/1")).json()["facts"]
    assert facts == {
        "rank": 2,
        "alpha": 4.0,
        "targets": ["q_proj"],
        "rslora": False,
        "dora": False,
        "alora": False,
        "invocation_tokens": [],
        "dtype": "float32",
        "num_parameters": 32,
        "num_bytes": 128,
        "bytes_per_module": {"q_proj": 128},
        "device_bytes": 2 * (8 + 8) * 4,
        "kv_digest": facts["kv_digest"],
    }


async def test_versions_are_found_by_what_was_said_about_them(house):
    await house.adapter("a")
    await house.adapter("b")
    lineage = {"parent_version": 1, "training_run": "run-7", "datasets": ["spider", "wiki"]}
    first = await upload(house, "a", 1, {"description": "For 100% SQL", "tags": ["good", "good"]})
    assert first.status_code == 201
    assert (first.json()["tags"], first.json()["lineage"]["datasets"]) == (["good"], [])
    second = await upload(house, "a", 2, {"lineage": lineage})
    assert second.json()["lineage"] == lineage
    await upload(house, "b", 3, {"lineage": {"datasets": ["spider"]}, "tags": ["good"]})
    assert await numbers(house, tag="good") == [1]
    assert await numbers(house, q="100% s") == [1]
    assert await numbers(house, q="1__") == []
    assert await numbers(house, dataset="wiki") == await numbers(house, training_run="run-7") == [2]
    assert await numbers(house, parent="1", state="ready") == [2]
    assert await numbers(house, digest=first.json()["digest"]) == [1]
    found = (await house.admin.get("/versions", params={"dataset": "spider"})).json()["items"]
    assert [(item["adapter"], item["version"]) for item in found] == [("b", 1), ("a", 2)]
    patched = await house.admin.patch("/adapters/a/versions/2", json={"lineage": {"datasets": ["mine"]}, "tags": ["x"]})
    assert (patched.json()["lineage"]["datasets"], patched.json()["digest"]) == (["mine"], second.json()["digest"])
    assert await numbers(house, dataset="wiki") == []
    assert await numbers(house, dataset="mine", tag="x") == [2]


async def test_pages_of_a_search_are_stable_under_inserts(house):
    await house.adapter("a", 1, 2, 3)
    await house.adapter("b", 4)
    first = (await house.admin.get("/versions", params={"limit": 2})).json()
    await upload(house, "a", 5)
    token = first["next_page_token"]
    second = (await house.admin.get("/versions", params={"limit": 2, "page_token": token})).json()
    seen = [(item["adapter"], item["version"]) for page in (first, second) for item in page["items"]]
    assert seen == [("b", 1), ("a", 3), ("a", 2), ("a", 1)]
    assert second["next_page_token"] is None


async def test_a_tenant_finds_what_it_may_use(house):
    await house.adapter("a", 1)
    client = await house.tenant("acme")
    await house.keys.tenants.amend("test", "acme", allowed_adapters=["mine-*"])
    assert (await client.get("/versions")).json()["items"] == []
    assert (await client.get("/adapters/a/versions")).status_code == 404


@pytest.mark.parametrize(
    ("metadata", "pointer"),
    [
        ({"tags": [""]}, "/tags/0"),
        ({"lineage": {"datasets": ["x" * 256]}}, "/lineage/datasets/0"),
        ({"lineage": {"parent_version": 0}}, "/lineage/parent_version"),
        ({"lineage": {"other": 1}}, "metadata"),
        ({"evals": [{"prompt": "x"}]}, "/evals/0"),
        ({"evals": [{"prompt": "x", "matches": ["("]}]}, "/evals/0/matches/0"),
        ({"evals": [{"contains": ["x"]}]}, "/evals/0"),
        ({"evals": [{"prompt": "x", "contains": ["y"], "max_tokens": 0}]}, "/evals/0/max_tokens"),
        ({"unknown": 1}, "metadata"),
        ([], "metadata"),
    ],
)
async def test_bad_details_make_no_version(house, metadata, pointer):
    await house.adapter("a")
    response = await upload(house, "a", 1, metadata)
    assert response.status_code == 400, response.text
    assert response.json()["errors"][0]["pointer"] == pointer
    assert await numbers(house) == []


async def test_deep_metadata_is_refused(house):
    await house.adapter("a")
    parts = [("file", (file, data)) for file, data in adapter_files(1).items()]
    for text in ("[" * 100_000, '{"a":' * 50_000, "x" * (1 << 21)):
        response = await house.admin.post("/adapters/a/versions", files=parts, data={"metadata": text})
        assert response.status_code in (400, 413)


async def test_a_card_is_shown_and_harmless(house):
    await house.adapter("a")
    assert (await upload(house, "a", 1, **{"README.md": CARD.encode()})).json()["has_card"]
    card = (await house.admin.get("/adapters/a/versions/1/card")).json()
    assert card["metadata"] == {"license": "apache-2.0", "tags": ["sql"]}
    assert "<h1>Text to SQL" in card["html"]
    assert "<table>" in card["html"]
    assert not any(word in card["html"] for word in ("<script", "onerror", "href"))
    await upload(house, "a", 2)
    assert (await house.admin.get("/adapters/a/versions/2/card")).status_code == 404
    digest = (await house.admin.get("/adapters/a/versions/1")).json()["digest"]
    assert sorted(file.name for file in house.store.path(digest).iterdir()) == sorted(adapter_files(1))


async def test_a_deleted_version_answers_nobody_and_comes_back(house):
    await house.adapter("a", 1, 2)
    digest = house.registry.resolve("a@2", None).digest
    assert (await house.admin.delete("/adapters/a/versions/1")).json()["type"].endswith("version-in-use")
    deleted = await house.admin.delete("/adapters/a/versions/2")
    assert (deleted.json()["state"], deleted.json()["deleted_at"] is None) == ("archived", False)
    assert (await house.admin.delete("/adapters/a/versions/2")).status_code == 200
    assert house.registry.resolve("a@2", None) is None
    assert await numbers(house) == [1]
    assert await numbers(house, deleted=True) == [2, 1]
    assert (await house.admin.put("/adapters/a/aliases/x", json={"version": 2})).status_code == 409
    await house.registry._artifacts.sweep()
    assert house.store.has(digest)
    restored = await house.admin.post("/adapters/a/versions/2:restore")
    assert (restored.json()["state"], restored.json()["deleted_at"]) == ("ready", None)
    assert house.registry.resolve("a@2", None).digest == digest
    assert (await house.admin.post("/adapters/a/versions/2:restore")).status_code == 409


async def test_a_purged_version_leaves_its_number_only(house):
    await house.adapter("a", 1, 2)
    await house.adapter("b", 2)
    digest = house.registry.resolve("a@2", None).digest
    assert (await house.admin.post("/adapters/a/versions/2:purge")).status_code == 409
    await house.admin.delete("/adapters/a/versions/2")
    assert (await house.admin.post("/adapters/a/versions/2:purge")).status_code == 204
    for method, path in (("GET", ""), ("POST", ":restore"), ("POST", ":purge"), ("GET", "/validation")):
        assert (await house.admin.request(method, f"/adapters/a/versions/2{path}")).status_code == 404
    await house.registry._artifacts.sweep()
    assert house.store.has(digest), "b has the same content"
    assert (await upload(house, "a", 2)).json()["version"] == 3


async def test_a_purged_version_in_use_finishes_its_requests(house):
    await house.adapter("a", 1, 2)
    digest = house.registry.resolve("a@2", None).digest
    with house.registry.lease(digest):
        await house.admin.delete("/adapters/a/versions/2")
        await house.admin.post("/adapters/a/versions/2:purge")
        await house.registry._artifacts.sweep()
        assert house.store.has(digest)
    await house.registry._artifacts.close()
    assert not house.store.has(digest)


async def test_a_rejected_version_can_be_deleted_and_restored_as_it_was(house):
    await house.adapter("a")
    await house.upload("a", rejected_files())
    assert (await house.admin.delete("/adapters/a/versions/1")).status_code == 200
    assert (await house.admin.post("/adapters/a/versions/1:restore")).json()["state"] == "rejected"


async def test_evals_are_run_before_a_version_is_ready(open_house):
    asked = []

    async def answer(digest, one):
        asked.append((digest, house.store.has(digest), one.prompt))
        return "SELECT name FROM products"

    house = await open_house(answer_eval=answer)
    await house.adapter("a")
    evals = [{"prompt": "Show names", "contains": ["SELECT"], "matches": ["(?i)from\\s+products$"]}]
    good = await upload(house, "a", 1, {"evals": evals})
    assert good.status_code == 201, good.text
    assert asked == [(good.json()["digest"], True, "Show names")]
    (result,) = good.json()["evals"]
    assert (result["passed"], result["answer"]) == (True, "SELECT name FROM products")
    bad = await upload(house, "a", 2, {"evals": [*evals, {"prompt": "Count", "contains": ["COUNT("]}]})
    assert bad.status_code == 422
    rows = [row for row in bad.json()["rows"] if row["check"] == "eval"]
    assert [row["severity"] for row in rows] == ["ok", "error"]
    assert "'COUNT('" in rows[1]["message"]
    report = (await house.admin.get("/adapters/a/versions/2/validation")).json()
    assert [result["passed"] for result in report["evals"]] == [True, False]
    await house.registry._artifacts.close()
    assert house.store.digests() == [good.json()["digest"]]


async def test_a_pattern_that_would_take_for_ever_fails_its_eval(open_house, monkeypatch):
    async def answer(digest, one):
        return "a" * 64 + "!"

    house = await open_house(answer_eval=answer)
    await house.adapter("a")
    response = await upload(house, "a", 1, {"evals": [{"prompt": "x", "matches": ["^(a|aa)+$"]}]})
    assert response.status_code == 422
    assert "eval" in [row["check"] for row in response.json()["rows"] if row["severity"] == "error"]


async def test_a_version_is_downloaded_as_what_was_uploaded_and_taken_back_as_it_is(house):
    await house.adapter("a")
    await upload(house, "a", 1, **{"README.md": CARD.encode()})
    answer = await house.admin.get("/adapters/a/versions/1/archive")
    assert answer.headers["content-disposition"] == 'attachment; filename="a-1.tar"'
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}
    assert files == {**adapter_files(1), "README.md": CARD.encode()}
    again = await house.admin.post("/adapters/a/versions", files=[("file", ("a-1.tar", answer.content))])
    assert (again.status_code, again.json()["version"]) == (200, 1)
    await house.upload("a", rejected_files())
    assert (await house.admin.get("/adapters/a/versions/2/archive")).status_code == 404
    assert (await house.admin.get("/adapters/a/versions/9/archive")).status_code == 404
    tenant = await house.tenant("acme")
    assert (await tenant.get("/adapters/a/versions/1")).status_code == 200
    assert (await tenant.get("/adapters/a/versions/1/archive")).status_code == 403
