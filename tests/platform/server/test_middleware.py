"""Request ids, limits, foreign hosts, the log line."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.platform.gateway.house import House

from multiflora_platform.server.middleware import AllowedHosts

PATH = "/v1/completions"


@pytest.mark.parametrize(("given", "kept"), [("abc-1.2_3", True), ("", False), ("a b", False), ("x" * 500, False)])
async def test_a_sane_request_id_is_kept(house: House, given: str, kept: bool) -> None:
    response = await house.http.get("/v1/models", headers={"x-request-id": given})
    assert (response.headers["x-request-id"] == given) is kept
    assert len(response.headers["x-request-id"]) >= 3
    assert int(response.headers["openai-processing-ms"]) >= 0


async def test_bodies_over_the_limit_are_413_before_they_are_read(make_house: Any) -> None:
    house = make_house({"max_request_bytes": 2048})
    read = []

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            read.append(1)
            yield b" " * 1000

    async with house.http as http:
        declared = await http.post(PATH, content=b" " * 3000)
        streamed = await http.post(PATH, content=chunks())
        unknown = await http.post(PATH, content=b" " * 3000, headers={"authorization": "Bearer wrong"})
    for response in (declared, streamed):
        assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
        assert response.headers["connection"] == "close"
    assert len(read) <= 4
    assert unknown.status_code == 401


async def test_uploads_have_a_limit_of_their_own(make_house: Any) -> None:
    house = make_house({"max_request_bytes": 2048, "max_upload_bytes": 5000})
    async with house.http as http:
        small = await http.post("/api/v1/adapters", content=b" " * 3000, headers={"content-type": "application/json"})
    assert (small.status_code, small.headers["content-type"]) == (413, "application/problem+json")


async def test_heads_over_64_kib_are_431(house: House) -> None:
    response = await house.http.get("/v1/models", headers={"x-padding": "a" * 70_000})
    assert (response.status_code, response.json()["error"]["code"]) == (431, "headers_too_large")


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/docs", "/api/v1/adapters"])
async def test_foreign_hosts_are_refused(house: House, path: str) -> None:
    malformed = (
        "127.0.0.1:80:80",
        "localhost:99999",
        "localhost:8000x",
        "[::1]x",
        "[::1",
        "user@localhost",
        "[127.0.0.1]",
    )
    for host in ("evil.example", "localhost.evil.example", "", "127.0.0.1.nip.io:8000", *malformed):
        response = await house.http.get(path, headers={"host": host})
        assert response.status_code == 400
    twice = await house.http.get(path, headers=[("host", "localhost"), ("host", "evil.example")])
    assert twice.status_code == 400
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST"):
        response = await house.http.get("/health", headers={"host": host})
        assert response.status_code == 200


async def test_pages_of_other_origins_may_call_where_they_are_allowed(make_house: Any) -> None:
    origin = "https://app.example.com"
    preflight = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    open_, closed = make_house({"allowed_origins": (origin,)}), make_house({})
    async with open_.http as http:
        allowed = await http.options(PATH, headers={**preflight, "Authorization": ""})
        foreign = await http.options(PATH, headers={**preflight, "Origin": "https://evil.example"})
        refused = await http.get("/v1/models", headers={"Origin": origin, "Authorization": "Bearer wrong"})
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, origin)
    assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
    assert "access-control-allow-credentials" not in allowed.headers
    assert "access-control-allow-origin" not in foreign.headers
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, origin)
    async with closed.http as http:
        answer = await http.options(PATH, headers=preflight)
        assert answer.status_code >= 400
        assert "access-control-allow-origin" not in answer.headers


async def test_the_bare_address_leads_to_the_ui(house: House) -> None:
    answer = await house.http.get("/", headers={"Authorization": ""})
    assert (answer.status_code, answer.headers["location"]) == (307, "/ui/")


async def test_headers_that_routes_read_stand_in_the_document(house: House) -> None:
    paths = (await house.http.get("/openapi.json")).json()["paths"]
    for path, name in (
        ("/v1/chat/completions", "x-request-timeout"),
        ("/v1/responses", "x-request-timeout"),
        ("/v1/messages", "x-request-timeout"),
        ("/api/v1/adapters/{name}/versions", "idempotency-key"),
        ("/api/v1/adapters/{name}/aliases/{alias}/rollout", "if-match"),
    ):
        assert name in [one["name"].lower() for one in paths[path]["post"]["parameters"]], path


def test_hosts_by_bind_address() -> None:
    assert AllowedHosts("10.0.0.5", ()).allow("10.0.0.5:80")
    assert not AllowedHosts("10.0.0.5", ()).allow("10.0.0.6")
    assert AllowedHosts("0.0.0.0", ()).allow("10.0.0.6:8000")
    assert AllowedHosts("::", ()).allow("[fe80::1]:8000")
    assert not AllowedHosts("0.0.0.0", ()).allow("evil.example")
    assert AllowedHosts("127.0.0.1", ("llm.example",)).allow("LLM.example:443")
    assert AllowedHosts("127.0.0.1", ("*",)).allow("anything")


async def test_each_request_is_one_line(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "multiflora.access")
    await house.post(PATH, {"model": "nobody", "prompt": "secret"}, **{"x-request-id": "r1"})
    [record] = [record for record in caplog.records if record.name == "multiflora.access"]
    line = json.loads(record.getMessage())
    assert (line["request_id"], line["path"], line["status"], line["method"]) == ("r1", PATH, 404, "POST")
    assert "secret" not in record.getMessage()


async def test_unknown_routes_speak_the_envelope(house: House) -> None:
    missing, wrong = await house.http.get("/v1/nothing"), await house.http.get(PATH)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert (await house.http.get("/api/v1/nothing")).headers["content-type"] == "application/problem+json"


async def test_docs_may_be_left_out_and_a_proxys_path_is_told(make_house: Callable[..., House]) -> None:
    for settings, status, servers in (
        ({"root_path": "/llm/"}, 200, [{"url": "/llm"}]),
        ({"disable_fastapi_docs": True}, 404, None),
    ):
        house = make_house(settings)
        async with house.http:
            document = await house.http.get("/openapi.json")
            assert (await house.http.get("/docs")).status_code == document.status_code == status
            assert document.json().get("servers") == servers
            assert (await house.http.get("/v1/models")).status_code == 200
        await house.services.grammars.close()
