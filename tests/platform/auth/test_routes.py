"""Who may use which route: every route, every role; and keys and tenants over HTTP."""

from __future__ import annotations

import pytest
from fastapi import APIRouter, Depends, FastAPI
from tests.platform.registry.house import adapter_files

from multiflora_platform.auth.dependencies import require_admin, require_key, routes_without_policy
from multiflora_platform.server.rest_api import router

OPEN_TO_TENANTS = {
    ("GET", "/adapters"),
    ("GET", "/adapters/{name}"),
    ("GET", "/adapters/{name}/versions"),
    ("GET", "/adapters/{name}/versions/{number}"),
    ("GET", "/adapters/{name}/versions/{number}/validation"),
    ("GET", "/adapters/{name}/aliases"),
    ("GET", "/adapters/{name}/aliases/{alias}"),
    ("POST", "/adapters"),
    ("GET", "/usage"),
    ("GET", "/budgets"),
    ("GET", "/refusals"),
    ("POST", "/cache:explain"),
    ("GET", "/cache/drift"),
    ("GET", "/contexts"),
    ("PUT", "/contexts/{name}"),
    ("GET", "/contexts/{name}"),
    ("PATCH", "/contexts/{name}"),
    ("DELETE", "/contexts/{name}"),
    ("GET", "/requests"),
    ("GET", "/requests/{id}"),
    ("GET", "/requests/{id}/cache"),
    ("GET", "/tenants/{tenant}/limits"),
    ("GET", "/versions"),
    ("GET", "/adapters/{name}/versions/{number}/card"),
    ("GET", "/jobs"),
    ("GET", "/jobs/{job_id}"),
    ("POST", "/jobs/{job_id}:cancel"),
    ("GET", "/adapters/{name}/aliases/{alias}/history"),
    ("GET", "/adapters/{name}/aliases/{alias}/split"),
    ("GET", "/adapters/{name}/aliases/{alias}/rollout"),
    ("GET", "/adapters/{name}/aliases/{alias}/rollouts"),
    ("GET", "/adapters/{name}/aliases/{alias}/rollouts/{rollout}/pairs"),
    ("GET", "/adapters/{name}/aliases/{alias}/rollouts/{rollout}/timeline"),
    # Of evals that are not theirs, tenants are told that there are none.
    ("GET", "/adapters/{name}/evals"),
    ("GET", "/adapters/{name}/evals/{eval_name}"),
    ("GET", "/adapters/{name}/evals/{eval_name}/matrix"),
    ("GET", "/adapters/{name}/eval-runs"),
    ("GET", "/adapters/{name}/eval-runs/{run}"),
    ("GET", "/adapters/{name}/eval-runs:compare"),
}
OWNERS_AND_ADMINS = {
    ("PUT", "/adapters/{name}/evals/{eval_name}"),
    ("POST", "/adapters/{name}/evals/{eval_name}/cases"),
    ("PATCH", "/adapters/{name}/evals/{eval_name}"),
    ("DELETE", "/adapters/{name}/evals/{eval_name}"),
    ("POST", "/adapters/{name}/evals/{eval_name}/runs"),
    ("POST", "/adapters/{name}/eval-runs/{run}:cancel"),
    ("PATCH", "/adapters/{name}"),
    ("DELETE", "/adapters/{name}"),
    ("POST", "/adapters/{name}/versions"),
    ("PATCH", "/adapters/{name}/versions/{number}"),
    ("DELETE", "/adapters/{name}/versions/{number}"),
    ("POST", "/adapters/{name}/versions/{number}:restore"),
    ("POST", "/adapters/{name}/versions/{number}:purge"),
    ("PUT", "/adapters/{name}/aliases/{alias}"),
    ("DELETE", "/adapters/{name}/aliases/{alias}"),
    ("POST", "/adapters/{name}/aliases/{alias}:rollback"),
    ("POST", "/adapters/{name}/aliases/{alias}/rollout"),
    ("PATCH", "/adapters/{name}/aliases/{alias}/rollout"),
    ("POST", "/adapters/{name}/aliases/{alias}/rollout:promote"),
    ("POST", "/adapters/{name}/aliases/{alias}/rollout:abort"),
}
ADMINS = {
    ("GET", "/webhooks"),
    ("POST", "/webhooks"),
    ("GET", "/webhooks/{webhook_id}"),
    ("PATCH", "/webhooks/{webhook_id}"),
    ("DELETE", "/webhooks/{webhook_id}"),
    ("POST", "/webhooks/{webhook_id}:rotate"),
    ("POST", "/webhooks/{webhook_id}:test"),
    ("GET", "/webhooks/{webhook_id}/deliveries"),
    ("POST", "/webhooks/{webhook_id}/deliveries/{delivery}:redeliver"),
    ("POST", "/adapters/{name}/aliases/{alias}:protect"),
    ("POST", "/adapters/{name}/aliases/{alias}:unprotect"),
    ("POST", "/adapters/{name}:load"),
    ("POST", "/adapters/{name}:unload"),
    ("POST", "/adapters/{name}:pin"),
    ("POST", "/adapters/{name}:unpin"),
    ("GET", "/replicas"),
    ("GET", "/models"),
    ("POST", "/models"),
    ("GET", "/models/{name}"),
    ("DELETE", "/models/{name}"),
    ("GET", "/profile"),
    ("POST", "/profile"),
    ("GET", "/profile/{id}"),
    ("GET", "/rollouts"),
    ("GET", "/events"),
    ("GET", "/audit"),
    ("GET", "/tenants"),
    ("POST", "/tenants"),
    ("GET", "/tenants/{tenant}"),
    ("PATCH", "/tenants/{tenant}"),
    ("GET", "/keys"),
    ("POST", "/keys"),
    ("GET", "/keys/{key_id}"),
    ("DELETE", "/keys/{key_id}"),
    ("POST", "/keys/{key_id}:rotate"),
    ("GET", "/series"),
    ("GET", "/alerts"),
    ("GET", "/cache"),
    ("GET", "/activity"),
    ("GET", "/cache/events"),
    ("GET", "/cache/misses"),
    ("GET", "/cache/losses"),
    ("GET", "/cache/{hash}/text"),
    ("POST", "/cache:audit"),
    ("POST", "/cache:warm"),
    ("POST", "/cache:trace"),
    ("POST", "/cache/{hash}:pin"),
    ("POST", "/cache/{hash}:unpin"),
    ("POST", "/cache/{hash}:drop"),
    ("GET", "/slots"),
    ("POST", "/capacity"),
    ("GET", "/settings"),
    ("GET", "/doctor"),
}
EVERY = sorted(OPEN_TO_TENANTS | OWNERS_AND_ADMINS | ADMINS)


def served():
    app = FastAPI()
    app.include_router(router)
    paths = app.openapi()["paths"]
    return {(method.upper(), path.removeprefix("/api/v1")) for path, methods in paths.items() for method in methods}


def test_the_matrix_names_every_route():
    assert served() == set(EVERY)


@pytest.mark.parametrize(("method", "path"), EVERY)
async def test_each_route_for_each_role(house, method, path):
    await house.adapter("a", 1)
    tenant = await house.tenant("acme")
    key = (await house.keys.create_key("test", name="k", role="admin", tenant=None)).id
    ids = {"key_id": key, "webhook_id": "wh_x", "delivery": 1, "job_id": "job_x", "id": "r", "hash": "0" * 64}
    ids |= {"eval_name": "e", "run": 1, "rollout": 1}
    url = path.format(name="a", alias="default", number=1, tenant="acme", **ids)
    before = (await house.admin.get("/events")).json()

    for client in (house.client(None), house.client("mf-wrong")):
        response = await client.request(method, url, content=b"{" * 10)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.headers["content-type"] == "application/problem+json"
    refused = (await tenant.request(method, url)).status_code
    assert (refused == 403) == ((method, path) not in OPEN_TO_TENANTS)
    assert (await house.admin.get("/events")).json() == before
    if (method, path) != ("GET", "/events"):
        assert (await house.admin.request(method, url)).status_code not in (401, 403)


async def test_a_tenant_manages_its_own_adapters_and_nobody_elses(house):
    acme, other = await house.tenant("acme"), await house.tenant("other")
    assert (await acme.post("/adapters", json={"name": "mine"})).json()["owner"] == "acme"
    parts = [("f", (name, data)) for name, data in adapter_files(1).items()]
    for client, status in ((other, 403), (acme, 201)):
        assert (await client.post("/adapters/mine/versions", files=parts)).status_code == status
    for client, status in ((other, 403), (acme, 201), (house.admin, 428)):
        assert (await client.put("/adapters/mine/aliases/x", json={"version": 1})).status_code == status
    assert (await other.get("/adapters/mine")).status_code == 200
    for client, status in ((other, 403), (acme, 204)):
        assert (await client.delete("/adapters/mine")).status_code == status


async def test_keys_and_tenants_over_http(house):
    assert (await house.admin.post("/tenants", json={"name": "acme"})).status_code == 201
    assert (await house.admin.post("/tenants", json={"name": "acme"})).status_code == 409
    assert [row["name"] for row in (await house.admin.get("/tenants")).json()["items"]] == ["acme"]
    made = await house.admin.post("/keys", json={"name": "ci", "role": "tenant", "tenant": "acme"})
    assert made.status_code == 201
    key = made.json()
    assert (await house.client(key["key"]).get("/adapters")).status_code == 200
    shown = (await house.admin.get(f"/keys/{key['id']}")).json()
    assert shown | {"name": "ci", "role": "tenant", "tenant": "acme"} == shown
    assert "key" not in shown
    assert [row["id"] for row in (await house.admin.get("/keys")).json()["items"]] == [key["id"]]
    assert (await house.admin.delete(f"/keys/{key['id']}")).status_code == 204
    assert (await house.client(key["key"]).get("/adapters")).status_code == 401
    assert (await house.admin.get("/keys/nothing")).status_code == 404
    assert (await house.admin.delete("/keys/nothing")).status_code == 404
    actions = [row["action"] for row in (await house.admin.get("/audit")).json()["items"]]
    assert actions == ["key.revoked", "key.created", "tenant.created"]
    assert key["key"] not in (await house.admin.get("/audit")).text + (await house.admin.get("/events")).text


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "k"},
        {"name": "k", "role": "root"},
        {"name": "k", "role": "tenant"},
        {"name": "k", "role": "admin", "tenant": "acme"},
        {"name": "", "role": "admin"},
        {"name": "k", "role": "admin", "key": "mf-mine"},
    ],
)
async def test_bad_keys_are_a_400(house, body):
    assert (await house.admin.post("/keys", json=body)).status_code == 400


async def test_a_key_for_an_unknown_tenant_is_refused(house):
    response = await house.admin.post("/keys", json={"name": "k", "role": "tenant", "tenant": "nobody"})
    assert response.status_code == 404
    assert response.json()["errors"][0]["pointer"] == "/tenant"


def endpoint():
    return None


def test_routes_without_a_policy_are_found():
    app = FastAPI()
    inner = APIRouter(prefix="/in")
    inner.add_api_route("/open", endpoint)
    guarded = APIRouter(prefix="/guarded", dependencies=[Depends(require_key)])
    guarded.add_api_route("/a", endpoint)
    app.add_api_route("/admin", endpoint, dependencies=[Depends(require_admin)])
    app.add_api_route("/health/live", endpoint)
    app.add_api_route("/ui", endpoint)
    app.add_api_route("/uix", endpoint, methods=["POST"])
    app.include_router(inner, prefix="/v1")
    app.include_router(guarded)
    app.include_router(inner, prefix="/kept", dependencies=[Depends(require_key)])
    app.include_router(router)
    assert routes_without_policy(app) == [
        "GET,HEAD /docs/oauth2-redirect",
        "GET,HEAD /redoc",
        "POST /uix",
        "GET /v1/in/open",
    ]
