"""Every resource that can change has a strong ETag, on GET and on the answers of its changes."""

from __future__ import annotations

import asyncio

import pytest
from tests.platform.registry.house import House, adapter_files

from multiflora_platform.server.openapi import api_document
from multiflora_platform.web.etags import etag_of, is_current

ROLLOUT = "/adapters/a/aliases/default/rollout"
WEBHOOK = {"url": "http://127.0.0.1:9/", "events": ["alias.*"]}
# Of each kind: a change that is always accepted.
CHANGES = {
    "adapter": ("PATCH", "", {"description": "new"}),
    "version": ("PATCH", "", {"description": "new"}),
    "alias": ("POST", ":protect", None),
    "rollout": ("PATCH", "", {"min_samples": 7}),
    "tenant": ("PATCH", "", {"requests_per_minute": 7}),
    "key": ("DELETE", "", None),
    "webhook": ("PATCH", "", {"description": "new"}),
}
# And those that no client changes over HTTP, but time does.
READ = ("job", "report", "card")


async def path_of(house: House, kind: str) -> str:
    """Make one of the kind."""
    if kind == "tenant":
        await house.admin.post("/tenants", json={"name": "acme"})
        return "/tenants/acme"
    if kind == "key":
        made = await house.admin.post("/keys", json={"name": "k", "role": "admin"})
        return f"/keys/{made.json()['id']}"
    if kind == "webhook":
        return f"/webhooks/{(await house.admin.post('/webhooks', json=WEBHOOK)).json()['id']}"
    await house.adapter("a", 1, 2)
    if kind == "rollout":
        body = {"candidate": 2, "percent": 5}
        made = await house.admin.post(ROLLOUT, json=body, headers={"If-Match": await house.etag("a", "default")})
        assert made.status_code == 201
    if kind == "job":
        return f"/jobs/{(await house.admin.get('/jobs')).json()['items'][0]['id']}"
    if kind == "card":
        await house.upload("a", {**adapter_files(3), "README.md": b"# About"})
        return "/adapters/a/versions/3/card"
    report = "/adapters/a/versions/1/validation"
    return {"adapter": "/adapters/a", "version": "/adapters/a/versions/1", "rollout": ROLLOUT, "report": report}.get(
        kind, "/adapters/a/aliases/default"
    )


async def change(house: House, path: str, kind: str, **headers: str):
    method, verb, body = CHANGES[kind]
    return await house.admin.request(method, path + verb, json=body, headers=headers)


@pytest.mark.parametrize("kind", [*CHANGES, *READ])
async def test_who_has_it_already_gets_a_304(house: House, kind: str) -> None:
    path = await path_of(house, kind)
    shown = await house.admin.get(path)
    etag = shown.headers["etag"]
    assert etag == shown.json()["etag"]
    assert not etag.startswith("W/")
    for known in (etag, f'"x", {etag}', f"W/{etag}", "*"):
        again = await house.admin.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    for other in ('"x"', "", "x", etag.strip('"')):
        assert (await house.admin.get(path, headers={"If-None-Match": other})).status_code == 200


@pytest.mark.parametrize("kind", CHANGES)
async def test_a_change_is_for_the_etag_that_it_names(house: House, kind: str) -> None:
    path = await path_of(house, kind)
    etag = (await house.admin.get(path)).headers["etag"]
    for stale in ('"x"', "x", "", f"W/{etag}", etag.strip('"')):
        refused = await change(house, path, kind, **{"If-Match": stale})
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (412, "If-Match"), stale
    assert (await house.admin.get(path)).headers["etag"] == etag
    changed = await change(house, path, kind, **{"If-Match": f'"x", {etag}'})
    assert changed.is_success
    now = (await house.admin.get(path)).headers["etag"]
    assert now != etag
    if changed.status_code == 200:
        assert changed.headers["etag"] == now == changed.json()["etag"]
    assert (await change(house, path, kind, **{"If-Match": etag})).status_code == 412
    assert (await change(house, path, kind, **{"If-Match": "*"})).is_success


@pytest.mark.parametrize("kind", [kind for kind in CHANGES if kind not in ("alias", "key")])
@pytest.mark.each_database
async def test_of_parallel_changes_with_one_etag_exactly_one_wins(house: House, kind: str) -> None:
    path = await path_of(house, kind)
    etag = (await house.admin.get(path)).headers["etag"]
    method, _, body = CHANGES[kind]
    ((field, value),) = body.items()

    async def attempt(number: int) -> int:
        other = f"{value} {number}" if isinstance(value, str) else value + number
        response = await house.admin.request(method, path, json={field: other}, headers={"If-Match": etag})
        return response.status_code

    assert sorted(await asyncio.gather(*map(attempt, range(8)))) == [200] + [412] * 7


async def test_deleting_takes_an_etag(house: House) -> None:
    await house.adapter("a", 1, 2)
    hook = await path_of(house, "webhook")
    for path in (hook, "/adapters/a/versions/2", "/adapters/a"):
        before = (await house.admin.get(path)).headers["etag"]
        assert (await house.admin.delete(path, headers={"If-Match": '"x"'})).status_code == 412
        assert (await house.admin.delete(path, headers={"If-Match": before})).is_success
    purge = "/adapters/a/versions/2:purge"
    assert (await house.admin.post(purge, headers={"If-Match": '"x"'})).status_code == 404  # its adapter is gone


async def test_restoring_and_purging_take_an_etag(house: House) -> None:
    await house.adapter("a", 1, 2)
    path = "/adapters/a/versions/2"
    ready = (await house.admin.get(path)).headers["etag"]
    archived = (await house.admin.delete(path)).headers["etag"]
    assert archived != ready
    for verb in (":restore", ":purge"):
        assert (await house.admin.post(path + verb, headers={"If-Match": ready})).status_code == 412
    assert (await house.admin.post(path + ":purge", headers={"If-Match": archived})).status_code == 204


@pytest.mark.parametrize(("path", "body"), [("/adapters", {"name": "a"}), ("/tenants", {"name": "a"})])
async def test_making_what_must_not_exist(house: House, path: str, body: dict[str, str]) -> None:
    for status in (201, 412):
        made = await house.admin.post(path, json=body, headers={"If-None-Match": "*"})
        assert made.status_code == status
    assert made.json()["errors"][0]["pointer"] == "If-None-Match"
    assert (await house.admin.post(path, json=body)).status_code == 409


async def test_the_answer_to_an_upload_has_the_versions_etag(house: House) -> None:
    await house.adapter("a", 1)
    shown = await house.admin.get("/adapters/a/versions/1")
    listed = (await house.admin.get("/adapters/a/versions")).json()["items"][0]
    found = (await house.admin.get("/versions")).json()["items"][0]
    assert shown.headers["etag"] == listed["etag"] == found["etag"]
    adapters = (await house.admin.get("/adapters")).json()["items"]
    assert [adapters[0]["etag"]] == [(await house.admin.get("/adapters/a")).headers["etag"]]


async def test_what_is_only_observed_makes_no_change_stale(house: House) -> None:
    """A key that is used shows another last_used_at: caches must see it, who revokes the key need not."""
    made = (await house.admin.post("/keys", json={"name": "k", "role": "admin"})).json()
    before = (await house.admin.get(f"/keys/{made['id']}")).headers["etag"]
    await house.client(made["key"]).get("/adapters")
    again = await house.admin.get(f"/keys/{made['id']}", headers={"If-None-Match": before})
    assert again.status_code == 200
    assert again.json()["last_used_at"] is not None
    revoked = await house.admin.delete(f"/keys/{made['id']}", headers={"If-Match": before})
    assert revoked.status_code == 204


async def test_a_rollout_is_known_by_its_own_etag_and_its_aliass(house: House) -> None:
    path = await path_of(house, "rollout")
    own = (await house.admin.get(path)).headers["etag"]
    alias = await house.etag("a", "default")
    assert (await house.admin.patch(path, json={"min_samples": 9}, headers={"If-Match": own})).is_success
    assert (await house.admin.post(f"{path}:promote", headers={"If-Match": own})).status_code == 412
    assert (await house.admin.post(f"{path}:promote", headers={"If-Match": alias})).is_success


async def test_another_process_makes_the_same_etags(house: House, open_house) -> None:
    await house.adapter("a", 1)
    await path_of(house, "tenant")
    paths = ("/adapters/a", "/adapters/a/versions/1", "/adapters/a/aliases/default", "/tenants/acme")
    before = [(await house.admin.get(path)).headers["etag"] for path in paths]
    await house.close()
    again = await open_house()
    assert [(await again.admin.get(path)).headers["etag"] for path in paths] == before


def test_the_document_names_them_all() -> None:
    """What answers with an ETag says so; what changes such a resource takes If-Match."""
    for path, methods in api_document()["paths"].items():
        reading = methods.get("get")
        if reading is None or "headers" not in reading["responses"]["200"]:
            continue
        assert "304" in reading["responses"], path
        assert "if-none-match" in [parameter["name"] for parameter in reading["parameters"]], path
        for method in methods.keys() & {"patch", "put", "delete"}:
            assert "if-match" in [parameter["name"] for parameter in methods[method]["parameters"]], path


def test_etags_differ_with_what_they_stand_for() -> None:
    assert etag_of({"a": 1, "b": 2}) == etag_of({"b": 2, "a": 1})
    assert etag_of({"a": 1}) != etag_of({"a": 2})
    assert etag_of({"a": 1}, {"seen": 1}) != etag_of({"a": 1}, {"seen": 2})
    assert not is_current("*")
