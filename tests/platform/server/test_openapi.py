"""The whole OpenAPI document: who may use which operation, and that nothing that fits it breaks the server."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from tests.platform.gateway.house import House
from tests.platform.gateway.real_house import real_house
from tests.platform.registry.house import ADMIN as ADMIN_KEY
from tests.platform.registry.house import House as RegistryHouse

from multiflora_platform.auth.dependencies import routes_without_policy

# For a longer run: SCHEMA_EXAMPLES=150 pytest tests/platform/server/test_openapi.py
EXAMPLES = int(os.environ.get("SCHEMA_EXAMPLES", "4"))

PUBLIC = {("GET", "/ping"), ("POST", "/ping"), ("GET", "/health"), ("GET", "/health/live"), ("GET", "/health/ready")}
ANY_KEY = {
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/score"),
    ("POST", "/v1/rerank"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/tokenizer_info"),
    ("POST", "/v1/files"),
    ("GET", "/v1/files"),
    ("GET", "/v1/files/{file_id}"),
    ("DELETE", "/v1/files/{file_id}"),
    ("GET", "/v1/files/{file_id}/content"),
    ("POST", "/v1/batches"),
    ("GET", "/v1/batches"),
    ("GET", "/v1/batches/{batch_id}"),
    ("POST", "/v1/batches/{batch_id}/cancel"),
    ("GET", "/metrics"),
    ("GET", "/version"),
    ("GET", "/load"),
    ("GET", "/api/v1/adapters"),
    ("POST", "/api/v1/adapters"),
    ("GET", "/api/v1/usage"),
    ("GET", "/api/v1/budgets"),
    ("GET", "/api/v1/refusals"),
    ("GET", "/api/v1/requests"),
    ("GET", "/api/v1/requests/{id}"),
    ("GET", "/api/v1/requests/{id}/cache"),
    ("GET", "/api/v1/tenants/{tenant}/limits"),
    ("POST", "/api/v1/cache:explain"),
    ("GET", "/api/v1/cache/drift"),
    ("GET", "/api/v1/contexts"),
    ("PUT", "/api/v1/contexts/{name}"),
    ("GET", "/api/v1/contexts/{name}"),
    ("PATCH", "/api/v1/contexts/{name}"),
    ("DELETE", "/api/v1/contexts/{name}"),
    ("GET", "/api/v1/versions"),
    ("GET", "/api/v1/jobs"),
    ("GET", "/api/v1/jobs/{job_id}"),
    ("POST", "/api/v1/jobs/{job_id}:cancel"),
}
ADMINS = {("POST", "/v1/load_lora_adapter"), ("POST", "/v1/unload_lora_adapter")}
# Of /api/v1, tests/platform/auth/test_routes.py names each route; here, what begins so.
THERE = {"name": "a", "alias": "default", "number": "1", "model": "a"}
READ_BY_ALL = "/api/v1/adapters/{name}"


@pytest.fixture
async def whole(make_house: Callable[..., House], tmp_path: Path) -> AsyncIterator[tuple[House, RegistryHouse]]:
    async with real_house(make_house, tmp_path / "registry") as both:
        yield both


def expected(method: str, path: str) -> str:
    """public, key or admin; what is not named is the admins'."""
    if (method, path) in PUBLIC:
        return "public"
    if (method, path) in ANY_KEY:
        return "key"
    return "key" if method == "GET" and path.startswith(READ_BY_ALL) else "admin"


def test_no_route_is_without_a_policy(make_house: Callable[..., House]) -> None:
    assert routes_without_policy(make_house().app) == []


def test_what_the_matrix_names_is_served(make_house: Callable[..., House]) -> None:
    paths = make_house().app.openapi()["paths"]
    served = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert served >= PUBLIC | ANY_KEY | ADMINS
    assert {(m, p) for m, p in served if not p.startswith("/api/v1/")} == {
        (m, p) for m, p in PUBLIC | ANY_KEY | ADMINS if not p.startswith("/api/v1/")
    }


async def test_each_operation_for_each_role(whole: tuple[House, RegistryHouse]) -> None:
    """A tenant that owns nothing; keys that are narrowed to something else; nobody; somebody with a wrong key."""
    house, registry = whole
    await registry.adapter("a", 1)
    await registry.keys.tenants.create("test", "acme")

    async def key(**fields: Any) -> str:
        return (await registry.keys.create_key("test", name="k", **fields)).key

    tenant = await key(role="tenant", tenant="acme")
    narrow = [
        await key(role="tenant", tenant="acme", scopes=["metrics"]),
        await key(role="admin", tenant=None, scopes=["metrics"]),
    ]
    values = {"name": "a", "alias": "default", "number": "1", "delivery": "1", "tenant": "acme", "model": "a"}

    async def status(method: str, path: str, key: str | None) -> int:
        url = path.format_map({**dict.fromkeys(_parts(path), "none"), **values})
        headers = {"Authorization": f"Bearer {key}" if key else ""}
        return (await house.http.request(method, url, headers=headers)).status_code

    for path, methods in house.app.openapi()["paths"].items():
        for method in map(str.upper, methods):
            policy, what = expected(method, path), f"{method} {path}"
            for nobody in (None, "mf-wrong"):
                assert (await status(method, path, nobody) == 401) == (policy != "public"), what
            assert (await status(method, path, tenant) == 403) == (policy == "admin"), what
            for other in narrow:
                refused = policy != "public" and path not in ("/metrics", "/version", "/load")
                assert (await status(method, path, other) == 403) == refused, what
            if method in ("GET", "POST"):  # nothing that would take away what the rest of the loop looks at
                assert await status(method, path, ADMIN_KEY) not in (401, 403), what


def _parts(path: str) -> list[str]:
    return [part.partition("}")[0] for part in path.split("{")[1:]]


BAD_VALUES = [
    "",
    " ",
    "\x7f",
    "é",
    "\ud7ff",
    "null",
    "*",
    '"',
    '""',
    'W/"1"',
    "-1",
    "1e999",
    "NaN",
    "9" * 400,
    "a" * 9000,
    "%00",
    "{}",
]
HEADERS = [
    "if-match",
    "if-none-match",
    "idempotency-key",
    "last-event-id",
    "prefer",
    "content-type",
    "x-request-timeout",
    "x-request-id",
    "accept",
    "cookie",
    "origin",
    "traceparent",
    "transfer-encoding",
]
CALLS = [
    ("PUT", "/api/v1/adapters/a/aliases/x", b'{"version": 1}'),
    ("DELETE", "/api/v1/adapters/a/aliases/none", b""),
    ("POST", "/api/v1/adapters/a/versions", b"{"),
    ("GET", "/api/v1/audit", b""),
    ("POST", "/v1/completions", b'{"model": "a", "prompt": "x", "max_tokens": 1}'),
]


@pytest.mark.parametrize("name", HEADERS)
async def test_headers_that_nobody_would_send(whole: tuple[House, RegistryHouse], name: str) -> None:
    house, registry = whole
    await registry.adapter("a", 1)
    for method, path, body in CALLS:
        for value in BAD_VALUES:
            sent = {"content-type": "application/json", name: value.encode("utf-8", "surrogatepass")}
            response = await house.http.request(method, path, content=body, headers=sent)
            assert response.status_code < 500, (method, path, name, value, response.text)


async def test_no_address_has_a_nul(whole: tuple[House, RegistryHouse]) -> None:
    for path in ("/api/v1/adapters/a%00b", "/api/v1/usage?tenant=a%00b", "/v1/models/%00"):
        assert (await whole[0].http.get(path)).status_code == 400


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Basic eA==", "Bearer \x00", "Bearer " + "x" * 60_000, "é"])
async def test_an_authorization_that_is_none(whole: tuple[House, RegistryHouse], value: str) -> None:
    for path in ("/api/v1/adapters", "/v1/models", "/metrics"):
        response = await whole[0].http.get(path, headers={"authorization": value.encode()})
        assert response.status_code == 401


@pytest.fixture
def served(make_house: Callable[..., House], tmp_path: Path) -> Iterator[str]:
    """The address of the whole application in a thread of its own."""
    started, address, stop = threading.Event(), [""], [lambda: None]

    async def serve() -> None:
        async with real_house(make_house, tmp_path / "registry") as (house, registry):
            await registry.adapter("a", 1, 2)
            server = uvicorn.Server(uvicorn.Config(house.app, port=0, log_level="error", lifespan="off"))
            stop[0] = lambda: setattr(server, "should_exit", True)
            serving = asyncio.create_task(server.serve())
            while not server.started:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
            address[0] = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
            started.set()
            await serving

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(120)
    yield address[0]
    stop[0]()
    thread.join()


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_nothing_that_fits_the_document_breaks_the_server(served: str) -> None:
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    document = schemathesis.openapi.from_url(f"{served}/openapi.json", headers=headers)
    count = 0
    with httpx.Client(base_url=served, headers=headers, timeout=60) as http:
        for result in document.get_all_operations():
            operation = result.ok()

            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy())
            def send(case: Any) -> None:
                nonlocal count
                count += 1
                if count % 2 and case.method != "DELETE":  # of what exists
                    case.path_parameters.update({part: THERE[part] for part in case.path_parameters if part in THERE})
                response = case.call(headers=headers, timeout=60)
                assert response.status_code < 500, (response.status_code, response.text[:500], case.as_curl_command())
                if response.status_code >= 400 and response.status_code != 401:
                    _check_error(response)

            send()
        assert http.get("/health/ready").status_code == 200
    print(f"{count} cases")
    assert count >= EXAMPLES * 40


def _check_error(response: Any) -> None:
    body = response.json()
    if "problem+json" in response.headers["content-type"][0]:
        assert body["type"].startswith("urn:multiflora:problem:")
        assert body["detail"]
    else:
        assert body["error"]["message"]
