"""/api/v1/contexts: what is made, refused, listed and changed, by tenants and admins."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from tests.platform.gateway.background.conftest import BLOCK, RULES, ContextHouse, contexts

from multiflora_platform.auth.limits.memory import MemoryLimits
from multiflora_platform.text.message_parts import by_digest

__all__ = ["contexts"]
PATH = "/api/v1/contexts"
SYSTEM = [{"role": "system", "content": RULES}]


async def test_made_replaced_listed_and_deleted(contexts: ContextHouse) -> None:
    made = await contexts.acme.put(f"{PATH}/rules", json={"messages": SYSTEM, "ttl": 300, "priority": 2})
    assert made.status_code == 201, made.text
    shown = made.json()
    assert (shown["name"], shown["tenant"], shown["ttl"], shown["priority"]) == ("rules", "acme", 300, 2)
    assert made.headers["etag"] == shown["etag"]
    assert (await contexts.acme.put(f"{PATH}/rules", json={"messages": SYSTEM})).status_code == 200
    for name in ("a", "b"):
        await contexts.put(name)
    first = (await contexts.acme.get(PATH, params={"limit": 2})).json()
    assert [item["name"] for item in first["items"]] == ["a", "b"]
    rest = (await contexts.acme.get(PATH, params={"page_token": first["next_page_token"]})).json()
    assert ([item["name"] for item in rest["items"]], rest["next_page_token"]) == (["rules"], None)
    assert (await contexts.acme.delete(f"{PATH}/a")).status_code == 204
    assert (await contexts.acme.get(f"{PATH}/a")).status_code == 404
    audit = (await contexts.registry.admin.get("/audit")).json()["items"]
    assert [(row["action"], row["target"]) for row in audit[:2]] == [
        ("context.deleted", "acme/a"),
        ("context.created", "acme/b"),
    ]
    assert audit[0]["actor"].startswith("acme/")


async def test_a_tenants_limits_hold(contexts: ContextHouse) -> None:
    """What is computed takes tokens, once for each model; each call is a request."""
    contexts.house.services.limits = MemoryLimits(lambda: 0.0)
    limits = {"requests_per_minute": 6, "tokens_per_minute": 2 * len(RULES)}
    changed = await contexts.registry.admin.patch("/tenants/acme", json=limits)
    assert changed.status_code == 200, changed.text
    body = {"prompt": RULES}
    contexts.house.engine.ready = replace(contexts.house.engine.ready, num_blocks=8)
    full = await contexts.acme.put(f"{PATH}/rules", json=body)
    assert (full.status_code, full.headers["x-ratelimit-remaining-tokens"]) == (409, str(2 * len(RULES)))
    contexts.house.engine.ready = replace(contexts.house.engine.ready, num_blocks=128)
    for left, sent in ((len(RULES), body), (len(RULES), {**body, "ttl": 60}), (0, {"prompt": RULES[::-1]})):
        made = await contexts.acme.put(f"{PATH}/rules", json=sent)
        assert made.is_success, made.text
        assert made.headers["x-ratelimit-remaining-tokens"] == str(left)
    full = await contexts.acme.patch(f"{PATH}/rules", json={"prompt": RULES})
    assert (full.status_code, full.json()["type"]) == (429, "urn:multiflora:problem:rate-limit-exceeded")
    assert int(full.headers["retry-after"]) > 1
    assert "tokens per minute" in full.json()["detail"]
    assert (await contexts.acme.patch(f"{PATH}/rules", json={"pin": False})).status_code == 200
    spent = await contexts.acme.put(f"{PATH}/other", json={"prompt": "x"})
    assert spent.status_code == 429
    assert "requests per minute" in spent.json()["detail"]
    assert (await contexts.acme.get(f"{PATH}/rules")).status_code == 200, "looking is free"


async def test_if_match_and_if_none_match(contexts: ContextHouse) -> None:
    await contexts.put("rules")
    absent = await contexts.acme.put(f"{PATH}/rules", json={"prompt": "x"}, headers={"If-None-Match": "*"})
    assert absent.status_code == 412
    before = (await contexts.get("rules"))["etag"]
    await contexts.keeper.tend()
    after = (await contexts.get("rules"))["etag"]
    assert after != before, "what is shown is something else"
    assert (await contexts.acme.get(f"{PATH}/rules", headers={"If-None-Match": after})).status_code == 304
    changed = await contexts.acme.patch(f"{PATH}/rules", json={"pin": False}, headers={"If-Match": before})
    assert changed.status_code == 200, "being computed does not make a change stale"
    for method, body in (("PATCH", {"pin": True}), ("PUT", {"prompt": "x"}), ("DELETE", None)):
        stale = await contexts.acme.request(method, f"{PATH}/rules", json=body, headers={"If-Match": before})
        assert stale.status_code == 412, method
    assert (await contexts.acme.put(f"{PATH}/new", json={"prompt": "x"}, headers={"If-Match": "*"})).status_code == 412


async def test_a_patch_changes_what_it_names(contexts: ContextHouse) -> None:
    made = await contexts.put("rules", messages=SYSTEM, ttl="1h")
    pinned = (await contexts.acme.patch(f"{PATH}/rules", json={"pin": False})).json()
    assert (pinned["pin"], pinned["expires_at"], pinned["tokens"]) == (False, made["expires_at"], made["tokens"])
    text = (await contexts.acme.patch(f"{PATH}/rules", json={"messages": None, "prompt": RULES * 2})).json()
    assert text["tokens"] == 2 * len(RULES)
    assert text["expires_at"] > made["expires_at"]
    assert (await contexts.acme.patch(f"{PATH}/rules", json={"ttl": None})).json()["expires_at"] is None
    for body in ({"messages": SYSTEM}, {"prompt": None}, {"adapters": None}, {"pin": None}, {"name": "x"}):
        assert (await contexts.acme.patch(f"{PATH}/rules", json=body)).status_code == 400, body
    assert (await contexts.acme.patch(f"{PATH}/none", json={"pin": True})).status_code == 404


async def test_documents_in_any_order_are_one_context(contexts: ContextHouse) -> None:
    parts = [{"type": "document", "text": text * 5} for text in ("Snow. ", "Sun. ", "Rain. ")]

    async def computed(name: str, **body: Any) -> list[int]:
        await contexts.put(name, **body)
        await contexts.keeper.tend()
        return contexts.house.engine.requests[-1].prompt_token_ids

    least, middle, most = by_digest(parts)
    orders = ([middle, most, least], [most, middle, least])
    there, back = ([{"role": "system", "content": order}] for order in orders)
    first = await computed("first", messages=there, order="any")
    await contexts.put("second", messages=back, order="any")
    assert (await contexts.get("second"))["status"] == "warm", "what the first one has computed is the second one's"
    assert await computed("third", messages=back) != first
    await contexts.acme.patch("/api/v1/contexts/first", json={"messages": back})
    assert (await contexts.get("first"))["status"] == "warm", "a patch keeps the order"


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"messages": []}, ""),
    ({"prompt": ""}, "/prompt"),
    ({"prompt": "x\0y"}, "/prompt"),
    ({"prompt": "x", "messages": SYSTEM}, ""),
    ({"prompt": "x", "tools": [{}]}, ""),
    ({"messages": [{"role": "king", "content": "x"}]}, "/messages/0/role"),
    ({"messages": ["x"]}, "/messages/0"),
    ({"documents": [{"text": "x"}]}, "/documents"),
    ({"prompt": "x", "ttl": 0}, "/ttl"),
    ({"prompt": "x", "ttl": "soon"}, "/ttl"),
    ({"prompt": "x", "ttl": True}, "/ttl"),
    ({"prompt": "x", "ttl": "9" * 40}, "/ttl"),
    ({"prompt": "x", "priority": 2**40}, "/priority"),
    ({"prompt": "x", "pin": "yes"}, "/pin"),
    ({"prompt": "x", "adapters": [""]}, "/adapters/0"),
    ({"prompt": "x" * 2000}, "/prompt"),
    ({"prompt": "x", "unknown": 1}, "/unknown"),
    ({"prompt": "x", "order": "any"}, "/order"),
    ({"messages": SYSTEM, "order": "all"}, "/order"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "reuse": "all"}]}]}, "/messages"),
    ({"documents": [{"text": "x", "reuse": "approximate"}]}, "/documents"),
    ({"prompt": "x", "tenant": "nobody"}, "/tenant"),
]


@pytest.mark.parametrize(("body", "pointer"), BAD, ids=lambda value: str(value)[:40])
async def test_what_is_refused_is_named(contexts: ContextHouse, body: dict[str, Any], pointer: str) -> None:
    answer = await contexts.house.http.put(f"{PATH}/rules", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json().get("errors", [{"pointer": ""}])[0]["pointer"] == pointer
    assert (await contexts.house.http.get(f"{PATH}/rules")).status_code == 404


async def test_names_and_adapters_that_are_refused(contexts: ContextHouse) -> None:
    for name in ("-x", "x" * 65, "a b"):
        assert (await contexts.acme.put(f"{PATH}/{name}", json={"prompt": "x"})).status_code == 400
    answer = await contexts.acme.put(f"{PATH}/x", json={"prompt": "x", "adapters": ["nobody"]})
    assert answer.status_code == 404
    assert (await contexts.acme.put(f"{PATH}/x", json={"prompt": "x", "priority": -1})).status_code == 403


async def test_admins_act_for_tenants_and_tenants_for_themselves(contexts: ContextHouse) -> None:
    admin = contexts.house.http
    assert (await admin.put(f"{PATH}/x", json={"prompt": RULES, "tenant": "acme"})).status_code == 201
    assert (await contexts.get("x"))["tenant"] == "acme"
    assert (await admin.get(f"{PATH}/x")).status_code == 404
    assert (await admin.get(f"{PATH}/x", params={"tenant": "acme"})).json()["name"] == "x"
    await contexts.put("own", admin)
    assert [item["name"] for item in (await admin.get(PATH)).json()["items"]] == ["own", "x"]
    assert [item["name"] for item in (await admin.get(PATH, params={"tenant": "acme"})).json()["items"]] == ["x"]
    other = await contexts.tenant("other")
    for method, path, options in (
        ("PUT", f"{PATH}/y", {"json": {"prompt": "x", "tenant": "acme"}}),
        ("GET", f"{PATH}/x", {"params": {"tenant": "acme"}}),
        ("DELETE", f"{PATH}/x", {"params": {"tenant": "acme"}}),
        ("GET", PATH, {"params": {"tenant": "acme"}}),
    ):
        assert (await other.request(method, path, **options)).status_code == 403, (method, path)
    urgent = await admin.patch(f"{PATH}/x", json={"priority": -1}, params={"tenant": "acme"})
    assert urgent.status_code == 200, urgent.text
    kept = await contexts.acme.patch(f"{PATH}/x", json={"pin": False})
    assert (kept.status_code, kept.json()["priority"]) == (200, -1), "a patch is asked for what it names"
    assert (await contexts.acme.patch(f"{PATH}/x", json={"priority": -2})).status_code == 403
    await contexts.keeper.tend()
    salts = {request.cache_salt for request in contexts.house.engine.requests}
    assert len(salts) == 2, "each is computed where its tenant's requests look"


async def test_the_budget_is_the_tenants(contexts: ContextHouse) -> None:
    """A quarter of 128 blocks."""
    await contexts.put("a", prompt="a" * 20 * BLOCK)
    full = await contexts.acme.put(f"{PATH}/b", json={"prompt": "b" * 13 * BLOCK})
    assert full.status_code == 409
    assert full.json()["type"].endswith("context-budget")
    assert f"{13 * BLOCK} tokens beside {20 * BLOCK} tokens" in full.json()["detail"]
    assert "--context-budget" in full.json()["detail"]
    assert (await contexts.get("a"))["tokens"] == 20 * BLOCK
    assert (await contexts.acme.get(f"{PATH}/b")).status_code == 404
    await contexts.put("b", prompt="b" * 12 * BLOCK)
    await contexts.put("c", prompt="c" * 30 * BLOCK, pin=False)
    assert (await contexts.acme.patch(f"{PATH}/c", json={"pin": True})).status_code == 409
    other = await contexts.tenant("other")
    await contexts.put("a", other, prompt="a" * 15 * BLOCK)
    third = await contexts.tenant("third")
    everybodys = await third.put(f"{PATH}/a", json={"prompt": "a" * 20 * BLOCK})
    assert everybodys.status_code == 409
    assert "all tenants" in everybodys.json()["detail"]
    await contexts.put("a", prompt="a" * 15 * BLOCK)
    await contexts.keeper.tend()
    assert (await contexts.get("a"))["held"]


async def test_a_tenant_with_a_small_share_holds_half_of_it(contexts: ContextHouse) -> None:
    await contexts.registry.keys.tenants.amend("test", "acme", kv_share=0.25)
    assert (await contexts.acme.put(f"{PATH}/a", json={"prompt": "a" * 17 * BLOCK})).status_code == 409
    await contexts.put("a", prompt="a" * 16 * BLOCK)
