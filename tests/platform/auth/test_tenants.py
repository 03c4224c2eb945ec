"""Tenants' limits, and keys' scopes, expiry and rotation, over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from multiflora_platform.auth.keys import KeyStore
from multiflora_platform.auth.principals import Principal
from multiflora_platform.auth.scopes import SCOPES, scope_of
from multiflora_platform.auth.secret import Secret


async def made(house, **body):
    response = await house.admin.post("/keys", json={"name": "k", **body})
    assert response.status_code == 201, response.text
    return response.json()


async def test_a_tenants_limits_are_shown_and_changed(house):
    body = {
        "name": "acme",
        "allowed_adapters": ["sql-*"],
        "requests_per_minute": 60,
        "tokens_per_minute": 10_000,
        "max_concurrent_requests": 4,
        "kv_share": 0.25,
        "priority": "low",
        "shared_prefixes": True,
    }
    response = await house.admin.post("/tenants", json=body)
    assert response.status_code == 201
    assert response.headers["location"] == "/api/v1/tenants/acme"
    assert response.json() | body == response.json()
    changed = await house.admin.patch("/tenants/acme", json={"requests_per_minute": None, "priority": "high"})
    now = {"requests_per_minute": None, "priority": "high", "etag": changed.headers["etag"]}
    assert changed.json() == response.json() | now
    assert (await house.admin.get("/tenants/acme")).json() == changed.json()
    assert (await house.admin.get("/tenants")).json()["items"] == [changed.json()]
    assert (await house.admin.patch("/tenants/nobody", json={})).status_code == 404
    assert (await house.admin.get("/tenants/nobody")).status_code == 404


async def test_what_is_left_of_limits_is_shown(house):
    limits = {"requests_per_minute": 60, "max_concurrent_requests": 4}
    await house.admin.post("/tenants", json={"name": "acme", **limits})
    services = house.app.state.services
    await services.limits.admit(await house.keys.tenants.principal("acme"))
    left = (await house.admin.get("/tenants/acme/limits")).json()
    now = {"requests_left": 59, "tokens_left": None, "running": 1, "counted_by": "this server"}
    assert left == {**limits, "tokens_per_minute": None, **now, "peak": left["peak"], "refused": left["refused"]}
    assert (await house.admin.get("/tenants/nobody/limits")).status_code == 404


async def test_a_tenant_sees_its_own_limits_alone(house):
    acme, _ = await house.tenant("acme"), await house.tenant("other")
    assert (await acme.get("/tenants/acme/limits")).json()["requests_per_minute"] is None
    for path in ("/tenants/other/limits", "/tenants/nobody/limits", "/tenants/acme", "/tenants"):
        assert (await acme.get(path)).status_code == 403


@pytest.mark.parametrize(
    "fields",
    [
        {"requests_per_minute": 0},
        {"tokens_per_minute": 2**31},
        {"kv_share": 0},
        {"kv_share": 1.01},
        {"priority": "urgent"},
        {"allowed_adapters": [""]},
        {"allowed_adapters": "*"},
        {"unknown": 1},
    ],
)
async def test_limits_that_mean_nothing_are_a_400_that_names_the_field(house, fields):
    response = await house.admin.post("/tenants", json={"name": "acme", **fields})
    assert response.status_code == 400
    assert response.json()["errors"][0]["pointer"].startswith("/" + next(iter(fields)))


async def test_a_disabled_tenant_is_refused_until_it_is_enabled(house):
    acme = await house.tenant("acme")
    await house.admin.patch("/tenants/acme", json={"disabled": True})
    assert (await acme.get("/adapters")).status_code == 403
    await house.admin.patch("/tenants/acme", json={"disabled": False})
    assert (await acme.get("/adapters")).status_code == 200


async def test_a_changed_policy_holds_from_the_next_request_on(house):
    await house.admin.post("/tenants", json={"name": "acme"})
    key = await made(house, role="tenant", tenant="acme")
    await house.admin.patch("/tenants/acme", json={"allowed_adapters": ["a*"]})
    principal = house.keys.authenticate(f"Bearer {key['key']}")
    assert principal.may_use("abc")
    assert not principal.may_use("sql")
    assert principal.may_use("sql", owner="acme")


async def test_opting_in_shares_the_salt_but_not_the_share_of_the_cache(house):
    principals = []
    for name, shared in (("a", True), ("b", True), ("c", False)):
        await house.admin.post("/tenants", json={"name": name, "shared_prefixes": shared})
        key = await made(house, role="tenant", tenant=name)
        principals.append(house.keys.authenticate(f"Bearer {key['key']}"))
    salts = [house.keys.cache_salt(principal) for principal in principals]
    assert salts[0] == salts[1] != salts[2]
    assert len({house.keys.cache_owner(principal) for principal in principals}) == 3


async def test_a_tenant_s_salt_is_derived_once(house, monkeypatch):
    derived, derive = [], Secret.derive

    def noted(self, purpose, value):
        derived.append(purpose)
        return derive(self, purpose, value)

    monkeypatch.setattr(Secret, "derive", noted)
    keys = await KeyStore.open(house.database, house.follower, house.data)
    principal = Principal("tenant", "acme", "k", tenant_id=7)
    assert len({keys.cache_salt(principal), keys.cache_owner(principal), keys.cache_owner(principal)}) == 1
    assert derived.count("cache-salt") == 1
    await keys.close()


async def test_a_scoped_key_reaches_only_what_its_scopes_name(house):
    await house.adapter("a", 1)
    reader = house.client((await made(house, role="admin", scopes=["registry:read"]))["key"])
    assert (await reader.get("/adapters/a")).status_code == 200
    for method, path in (("DELETE", "/adapters/a"), ("POST", "/adapters"), ("GET", "/keys"), ("GET", "/usage")):
        response = await reader.request(method, path)
        assert response.status_code == 403
        assert "scopes" in response.json()["detail"]
    writer = house.client((await made(house, role="admin", scopes=["registry:write"]))["key"])
    assert (await writer.post("/keys", json={"name": "more", "role": "admin"})).status_code == 403
    assert (await writer.post("/adapters", json={"name": "b"})).status_code == 201


async def test_a_tenants_key_cannot_be_given_an_admins_scope(house):
    await house.tenant("acme")
    body = {"name": "k", "role": "tenant", "tenant": "acme", "scopes": ["admin"]}
    response = await house.admin.post("/keys", json=body)
    assert response.status_code == 400
    assert response.json()["errors"][0]["pointer"] == "/scopes"


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/chat/completions", "inference"),
        ("GET", "/v1/models", "inference"),
        ("POST", "/tokenize", "inference"),
        ("POST", "/v1/load_lora_adapter", "registry:write"),
        ("GET", "/api/v1/adapters/a/versions", "registry:read"),
        ("POST", "/api/v1/adapters/a:load", "registry:write"),
        ("GET", "/api/v1/versions", "registry:read"),
        ("POST", "/api/v1/jobs/j:cancel", "registry:write"),
        ("GET", "/api/v1/usage", "usage:read"),
        ("GET", "/api/v1/requests", "usage:read"),
        ("GET", "/api/v1/tenants/acme/limits", "usage:read"),
        ("PATCH", "/api/v1/tenants/limits", "admin"),
        ("GET", "/api/v1/tenants/limits", "admin"),
        ("GET", "/metrics", "metrics"),
        ("GET", "/api/v1/keys", "admin"),
        ("GET", "/api/v1/something-new", "admin"),
        ("GET", "/something-new", "admin"),
    ],
)
def test_what_is_not_known_needs_the_scope_admin(method, path, scope):
    assert scope_of(method, path) == scope
    assert scope in SCOPES


async def test_an_expired_key_is_refused(house, monkeypatch):
    soon = datetime.now(UTC) + timedelta(seconds=30)
    key = await made(house, role="admin", expires_at=soon.isoformat())
    header = f"Bearer {key['key']}"
    assert house.keys.authenticate(header) is not None
    monkeypatch.setattr("time.time", lambda: soon.timestamp())
    assert house.keys.authenticate(header) is None
    past = await house.admin.post("/keys", json={"name": "k", "role": "admin", "expires_at": "2020-01-01T00:00:00Z"})
    assert past.status_code == 400


async def test_a_rotated_key_overlaps_with_its_successor(house, monkeypatch):
    old = await made(house, role="admin", scopes=["registry:read"])
    rotated = await house.admin.post(f"/keys/{old['id']}:rotate", json={"overlap_seconds": 60})
    assert rotated.status_code == 201
    new = rotated.json()
    assert (new["scopes"], new["rotated_from"], new["name"]) == (["registry:read"], old["id"], "k")
    assert new["key"] != old["key"]
    both = [f"Bearer {key['key']}" for key in (old, new)]
    assert all(house.keys.authenticate(header) for header in both)
    later = datetime.now(UTC).timestamp() + 61
    monkeypatch.setattr("time.time", lambda: later)
    assert [house.keys.authenticate(header) is not None for header in both] == [False, True]


async def test_rotating_at_once_and_rotating_what_is_gone(house):
    old = await made(house, role="admin")
    assert (await house.admin.post(f"/keys/{old['id']}:rotate", json={"overlap_seconds": 0})).status_code == 201
    assert house.keys.authenticate(f"Bearer {old['key']}") is None
    await house.admin.delete(f"/keys/{old['id']}")
    assert (await house.admin.post(f"/keys/{old['id']}:rotate", json={})).status_code == 400
    assert (await house.admin.post("/keys/key_none:rotate", json={})).status_code == 404


async def test_keys_of_one_tenant(house):
    await house.tenant("acme")
    await house.tenant("other")
    items = (await house.admin.get("/keys", params={"tenant": "acme"})).json()["items"]
    assert [item["tenant"] for item in items] == ["acme"]


async def test_adapters_that_are_not_allowed_do_not_exist_in_the_registry_either(house):
    await house.adapter("sql", 1)
    await house.adapter("mail", 2)
    await house.admin.post("/tenants", json={"name": "acme", "allowed_adapters": ["m*"]})
    acme = house.client((await made(house, role="tenant", tenant="acme"))["key"])
    assert [row["name"] for row in (await acme.get("/adapters")).json()["items"]] == ["mail"]
    for path in ("", "/versions", "/versions/1", "/versions/1/validation", "/aliases", "/aliases/default"):
        assert (await acme.get(f"/adapters/sql{path}")).status_code == 404
        assert (await acme.get(f"/adapters/mail{path}")).status_code == 200
    assert (await acme.delete("/adapters/sql")).status_code == 404
    assert (await acme.post("/adapters", json={"name": "own"})).status_code == 201
    assert (await acme.get("/adapters/own")).status_code == 200
