"""/api/v1/adapters: make, show, search, page, change, delete."""

from __future__ import annotations

import pytest
from tests.platform.registry.house import adapter_files


async def test_create_and_show(house):
    response = await house.admin.post(
        "/adapters",
        json={"name": "sql", "description": "Text to SQL", "tags": ["demo", "sql"], "demo_prompt": "How many?"},
    )
    assert response.status_code == 201
    assert response.headers["location"] == "/api/v1/adapters/sql"
    shown = (await house.admin.get("/adapters/sql")).json()
    assert shown == response.json()
    assert {key: shown[key] for key in ("name", "description", "tags", "aliases", "demo_prompt")} == {
        "name": "sql",
        "description": "Text to SQL",
        "tags": ["demo", "sql"],
        "aliases": {},
        "demo_prompt": "How many?",
    }


async def test_a_taken_name_is_a_conflict(house):
    await house.adapter("sql")
    response = await house.admin.post("/adapters", json={"name": "sql"})
    assert response.status_code == 409
    assert response.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "detail"} <= response.json().keys()


async def test_the_base_models_name_is_reserved(open_house):
    house = await open_house(reserved_names={"tiny"})
    assert (await house.admin.post("/adapters", json={"name": "tiny"})).status_code == 409


@pytest.mark.parametrize("name", ["", "-a", "a" * 65, "a/b", "../x", "a b", "é", "a@b", "a:load", "a\n"])
async def test_names_that_could_be_paths_or_selectors_are_refused(house, name):
    response = await house.admin.post("/adapters", json={"name": name})
    assert response.status_code == 400
    assert response.json()["errors"][0]["pointer"] == "/name"


@pytest.mark.parametrize(
    ("name", "proposed"), [("org/name", "org--name"), ("a/b/c", "a--b--c"), ("/name/", "name"), ("a b/c", None)]
)
async def test_a_name_with_a_slash_is_refused_with_one_that_would_do(house, name, proposed):
    refused = await house.admin.post("/adapters", json={"name": name})
    assert refused.status_code == 400
    detail = refused.json()["detail"]
    assert repr(name) in detail
    if proposed is None:
        # No other name can be made of it by its slashes alone, so the rule is told.
        assert "--" not in detail
        assert "letters, digits" in detail
    else:
        assert "no slash" in detail
        assert detail.endswith(f"Use {proposed!r}.")
        assert (await house.admin.post("/adapters", json={"name": proposed})).status_code == 201


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"name": "a", "colour": 1}, "/colour"),
        ({}, "/name"),
        ({"name": 3}, "/name"),
        ({"name": "a", "tags": ["x", 4]}, "/tags/1"),
        ({"name": "a", "tags": [""]}, "/tags/0"),
        ({"name": "a", "description": "x" * 20_000}, "/description"),
        ([], ""),
    ],
)
async def test_a_bad_body_is_a_400_that_points_at_the_place(house, body, pointer):
    response = await house.admin.post("/adapters", json=body)
    assert response.status_code == 400
    assert response.json()["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"name":' + b"[" * 100_000])
async def test_broken_and_deep_json_is_a_400(house, data):
    response = await house.admin.post("/adapters", content=data, headers={"Content-Type": "application/json"})
    assert response.status_code == 400


async def test_a_json_body_over_the_limit_is_a_413(house):
    async def chunks():
        for _ in range(20):
            yield b" " * 100_000

    headers = {"Content-Type": "application/json"}
    assert (await house.admin.post("/adapters", content=b" " * 2_000_000, headers=headers)).status_code == 413
    assert (await house.admin.post("/adapters", content=chunks(), headers=headers)).status_code == 413


@pytest.mark.parametrize("text", [r"\u0000", r"\ud800", r"\udfff"])
@pytest.mark.parametrize("field", ["name", "description", "demo_prompt", "tags"])
@pytest.mark.each_database
async def test_text_that_no_database_holds_is_a_400(house, field, text):
    value = f'["{text}"]' if field == "tags" else f'"{text}"'
    body = f'{{"name": "a", "{field}": {value}}}'
    response = await house.admin.post("/adapters", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400


async def test_other_content_types_are_a_415(house):
    assert (await house.admin.post("/adapters", data={"name": "a"})).status_code == 415


async def test_list_is_paged_by_name(house):
    for name in ("c", "a", "e", "b", "d"):
        await house.adapter(name)
    seen, token = [], None
    while True:
        params = {"limit": 2} | ({"page_token": token} if token else {})
        page = (await house.admin.get("/adapters", params=params)).json()
        seen += [item["name"] for item in page["items"]]
        assert len(page["items"]) <= 2
        token = page["next_page_token"]
        if token is None:
            break
    assert seen == ["a", "b", "c", "d", "e"]
    assert (await house.admin.get("/adapters", params={"limit": 5})).json()["next_page_token"] is None


async def test_search_by_text_and_tag(house):
    for name, description, tags in (
        ("sql", "Text to SQL", ["db"]),
        ("triage", "Für Tickets", ["db", "x"]),
        ("z", "", []),
    ):
        await house.admin.post("/adapters", json={"name": name, "description": description, "tags": tags})

    async def names(**params: str) -> list[str]:
        return [item["name"] for item in (await house.admin.get("/adapters", params=params)).json()["items"]]

    assert await names(q="SQL") == ["sql"]
    assert await names(q="to sql") == ["sql"]
    assert await names(q="FÜR") == ["triage"]
    assert await names(q="%") == []
    assert await names(tag="db") == ["sql", "triage"]
    assert await names(tag="d") == []
    assert await names(tag="db", q="ticket") == ["triage"]


@pytest.mark.parametrize("limit", [1, 2, 4, 5])
@pytest.mark.each_database
async def test_the_adapter_that_a_search_names_comes_first_and_once(house, limit):
    for name in ("a-sql", "b-sql", "sql", "sql-z", "other"):
        await house.adapter(name)
    seen, params = [], {"q": "sql", "limit": limit}
    while True:
        page = (await house.admin.get("/adapters", params=params)).json()
        seen += [item["name"] for item in page["items"]]
        assert len(page["items"]) <= limit
        if page["next_page_token"] is None:
            break
        params["page_token"] = page["next_page_token"]
    assert seen == ["sql", "a-sql", "b-sql", "sql-z"]
    assert (await house.admin.get("/adapters", params={"q": "sql", "tag": "x"})).json()["items"] == []


@pytest.mark.parametrize(
    "params", [{"limit": 0}, {"limit": "x"}, {"limit": 1001}, {"page_token": "!"}, {"page_token": "é"}]
)
async def test_bad_page_parameters_are_a_400(house, params):
    response = await house.admin.get("/adapters", params=params)
    assert response.status_code == 400
    assert response.json()["errors"][0]["pointer"] in params


async def test_patch_changes_only_what_is_sent(house):
    await house.admin.post("/adapters", json={"name": "a", "description": "one", "tags": ["x"], "demo_prompt": "p"})
    changed = (await house.admin.patch("/adapters/a", json={"description": "two"})).json()
    assert (changed["description"], changed["tags"], changed["demo_prompt"]) == ("two", ["x"], "p")
    cleared = (await house.admin.patch("/adapters/a", json={"tags": None, "demo_prompt": None})).json()
    assert (cleared["description"], cleared["tags"], cleared["demo_prompt"]) == ("two", [], None)
    assert (await house.admin.patch("/adapters/a", json={"name": "b"})).status_code == 400
    assert (await house.admin.patch("/adapters/b", json={})).status_code == 404


async def test_delete_frees_the_name(house):
    await house.adapter("a", 1)
    assert house.registry.resolve("a", None) is not None
    assert (await house.admin.delete("/adapters/a")).status_code == 204
    assert house.registry.resolve("a", None) is None
    assert (await house.admin.get("/adapters/a")).status_code == 404
    assert (await house.admin.get("/adapters/a/versions/1")).status_code == 404
    assert (await house.admin.delete("/adapters/a")).status_code == 404
    await house.adapter("a")
    assert (await house.admin.get("/adapters/a")).json()["aliases"] == {}
    assert (await house.admin.get("/adapters/a/versions")).json()["items"] == []
    assert (await house.upload("a", {"adapter_config.json": b"{}"})).status_code == 400


async def test_unknown_routes_and_methods_are_problems(house):
    for response in (await house.admin.get("/nothing"), await house.admin.put("/adapters")):
        assert response.status_code in (404, 405)
        assert response.headers["content-type"] == "application/problem+json"


async def test_a_tenant_learns_neither_paths_of_the_server_nor_who_others_are(open_house, tmp_path):
    root = tmp_path / "secret-root"
    root.mkdir()
    house = await open_house(source_roots=[root])
    acme, other = await house.tenant("acme"), await house.tenant("other")
    for name, data in adapter_files(1).items():
        (root / name).write_bytes(data)
    await house.admin.post("/adapters", json={"name": "a"})
    made = await house.admin.post("/adapters/a/versions", json={"source": f"file://{root}"})
    assert made.status_code == 201, made.text
    await other.post("/adapters", json={"name": "b"})
    await other.post("/adapters/b/versions", files=[("file", item) for item in adapter_files(2).items()])
    paths = ["/adapters", "/versions", "/jobs"]
    for name in ("a", "b"):
        paths += [f"/adapters/{name}", f"/adapters/{name}/versions", f"/adapters/{name}/versions/1"]
        paths += [f"/adapters/{name}/aliases/default/history", f"/adapters/{name}/aliases/default/rollouts"]
    for path in paths:
        answer = await acme.get(path)
        assert answer.status_code == 200, path
        assert "secret-root" not in answer.text, path
        assert "api-key" not in answer.text, path
        assert "other/" not in answer.text, path
    version = (await acme.get("/adapters/a/versions/1")).json()
    assert (version["source"], version["created_by"]) == ("file:", "admin")
    assert (await acme.get("/adapters/b/versions/1")).json()["created_by"] == "another tenant"
    assert (await acme.get("/adapters/b")).json()["owner"] is None
    assert (await other.get("/adapters/b/versions/1")).json()["created_by"].startswith("other/")
    assert (await house.admin.get("/adapters/a/versions/1")).json()["source"] == f"file://{root}"


async def test_adapters_without_a_usable_version_are_not_listed_to_other_tenants(house):
    acme, other = await house.tenant("acme"), await house.tenant("other")
    await acme.post("/adapters", json={"name": "mine"})
    await house.adapter("empty")
    await house.adapter("ready", 1)

    async def names(client):
        return [item["name"] for item in (await client.get("/adapters")).json()["items"]]

    assert await names(acme) == ["mine", "ready"]
    assert await names(other) == ["ready"]
    assert await names(house.admin) == ["empty", "mine", "ready"]


async def test_a_misspelt_adapter_names_the_nearest_that_the_key_may_see(house):
    for name in ("support", "support2"):
        await house.admin.post("/adapters", json={"name": name})
    tenant = await house.tenant("t")
    await house.keys.tenants.amend("test", "t", allowed_adapters=["support2"])
    for client, nearest in ((house.admin, "'support'"), (tenant, "'support2'")):
        answer = await client.get("/adapters/suport")
        assert (answer.status_code, answer.json()["detail"].endswith(f"Did you mean {nearest}?")) == (404, True)
    assert (await tenant.get("/adapters/support")).json()["detail"].startswith("There is no adapter named 'support'.")
    assert (await house.admin.get("/adapters/zzz")).json()["detail"] == "There is no adapter named 'zzz'."
