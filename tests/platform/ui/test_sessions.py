"""Signing in: what the cookie is, what it opens, what no other site can do with it, and when it ends."""

from __future__ import annotations

import httpx
import pytest
from tests.platform.registry.house import ADMIN, House

from multiflora_platform.auth import sessions
from multiflora_platform.auth.keys import KeyStore

ORIGIN = {"Origin": "http://test"}
NEW = {"name": "made"}


async def sign_in(browser: httpx.AsyncClient, key: str = ADMIN) -> dict[str, str]:
    """The headers that a change needs."""
    response = await browser.post("/ui/session", json={"key": key}, headers=ORIGIN)
    assert response.status_code == 200, response.text
    return {**ORIGIN, "X-CSRF-Token": response.json()["csrf"]}


async def test_a_key_opens_a_session_that_reads_and_changes(browser: httpx.AsyncClient) -> None:
    assert (await browser.get("/ui/session")).json() == {"signed_in": False}
    headers = await sign_in(browser)
    shown = (await browser.get("/ui/session")).json()
    assert shown["replicas"] == 1
    assert (shown["role"], shown["tenant"], shown["base_model"]) == ("admin", None, "base")
    assert (await browser.get("/api/v1/adapters")).status_code == 200
    assert (await browser.post("/api/v1/adapters", json=NEW, headers=headers)).status_code == 201


async def test_the_cookie_is_out_of_reach_for_scripts_and_other_sites(browser: httpx.AsyncClient) -> None:
    response = await browser.post("/ui/session", json={"key": ADMIN}, headers=ORIGIN)
    cookie = response.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert ADMIN not in cookie
    assert response.headers["cache-control"] == "no-store"
    secure = await browser.post("https://test/ui/session", json={"key": ADMIN}, headers={"Origin": "https://test"})
    assert "Secure" in secure.headers["set-cookie"]


@pytest.mark.parametrize(
    "change",
    [
        {"Origin": "http://evil.test"},
        {"Origin": "null"},
        {"Origin": "http://test.evil"},
        {"Origin": ""},
        {"X-CSRF-Token": "guess"},
        {"X-CSRF-Token": ""},
    ],
)
async def test_a_change_from_elsewhere_is_refused(browser: httpx.AsyncClient, change: dict[str, str]) -> None:
    headers = await sign_in(browser)
    response = await browser.post("/api/v1/adapters", json=NEW, headers={**headers, **change})
    assert (response.status_code, response.json()["type"]) == (403, "urn:multiflora:problem:forbidden")


async def test_a_change_without_origin_or_token_is_refused(browser: httpx.AsyncClient) -> None:
    headers = await sign_in(browser)
    for name in headers:
        rest = {other: value for other, value in headers.items() if other != name}
        assert (await browser.post("/api/v1/adapters", json=NEW, headers=rest)).status_code == 403


async def test_one_sessions_token_is_not_anothers(house: House, browser: httpx.AsyncClient) -> None:
    first = await sign_in(browser)
    browser.cookies.clear()
    await sign_in(browser)
    assert (await browser.post("/api/v1/adapters", json=NEW, headers=first)).status_code == 403


async def test_a_key_needs_neither_origin_nor_token(house: House) -> None:
    assert (await house.admin.post("/adapters", json=NEW)).status_code == 201


async def test_another_site_cannot_sign_anybody_in(browser: httpx.AsyncClient) -> None:
    response = await browser.post("/ui/session", json={"key": ADMIN}, headers={"Origin": "http://evil.test"})
    assert response.status_code == 403
    assert "set-cookie" not in response.headers


@pytest.mark.parametrize("key", ["", "mf-wrong", "é", "x" * 5000])
async def test_a_bad_key_opens_nothing(browser: httpx.AsyncClient, key: str) -> None:
    response = await browser.post("/ui/session", json={"key": key}, headers=ORIGIN)
    assert response.status_code == 401
    assert "set-cookie" not in response.headers


async def test_a_tenants_session_sees_what_its_key_sees(house: House, browser: httpx.AsyncClient) -> None:
    tenant = await house.tenant("acme")
    key = tenant.headers["authorization"].removeprefix("Bearer ")
    headers = await sign_in(browser, key)
    assert (await browser.get("/ui/session")).json()["tenant"] == "acme"
    for path in ("keys", "tenants", "audit", "events", "replicas"):
        assert (await browser.get(f"/api/v1/{path}")).status_code == 403
    assert (await browser.post("/api/v1/keys", json={"name": "k", "role": "admin"}, headers=headers)).status_code == 403


async def test_it_ends_with_its_key(house: House, browser: httpx.AsyncClient) -> None:
    made = await house.keys.create_key("test", name="k", role="admin", tenant=None)
    await sign_in(browser, made.key)
    await house.keys.revoke_key("test", made.id)
    assert (await browser.get("/api/v1/adapters")).status_code == 401
    assert (await browser.get("/ui/session")).json() == {"signed_in": False}


async def test_a_disabled_tenant_cannot_sign_in(house: House, browser: httpx.AsyncClient) -> None:
    tenant = await house.tenant("acme")
    await house.keys.tenants.amend("test", "acme", disabled=True)
    key = tenant.headers["authorization"].removeprefix("Bearer ")
    response = await browser.post("/ui/session", json={"key": key}, headers=ORIGIN)
    assert (response.status_code, "set-cookie" in response.headers) == (403, False)


async def test_signing_out_ends_it_even_for_a_copied_cookie(house: House, browser: httpx.AsyncClient) -> None:
    headers = await sign_in(browser)
    copied = browser.cookies[house.keys.sessions.cookie]
    assert (await browser.delete("/ui/session", headers=ORIGIN)).status_code == 403
    assert (await browser.delete("/ui/session", headers=headers)).status_code == 204
    assert house.keys.sessions.cookie not in browser.cookies
    browser.cookies.set(house.keys.sessions.cookie, copied)
    assert (await browser.get("/api/v1/adapters")).status_code == 401


async def test_it_ends_by_itself(browser: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    await sign_in(browser)
    now = sessions.time.time()
    monkeypatch.setattr(sessions.time, "time", lambda: now + sessions.LIFETIME_SECONDS + 1)
    assert (await browser.get("/api/v1/adapters")).status_code == 401


async def test_it_outlives_a_restart_and_belongs_to_one_installation(house: House, browser: httpx.AsyncClient) -> None:
    await sign_in(browser)
    value = browser.cookies[house.keys.sessions.cookie]
    again = await KeyStore.open(house.database, house.follower, house.data, admin_keys=[ADMIN])
    assert again.sessions.find(value) is not None
    other = await KeyStore.open(house.database, house.follower, house.data / "other", admin_keys=[ADMIN])
    assert other.sessions.find(value) is None
    assert other.sessions.cookie != house.keys.sessions.cookie


@pytest.mark.parametrize("cut", [0, 10, 40, 110, -1])
async def test_a_changed_cookie_is_nobodys(house: House, browser: httpx.AsyncClient, cut: int) -> None:
    await sign_in(browser)
    value = browser.cookies[house.keys.sessions.cookie]
    changed = value[:cut] + ("0" if value[cut] != "0" else "1") + (value[cut + 1 :] if cut != -1 else "")
    assert house.keys.sessions.find(changed) is None
    for broken in ("", ".", "a.b.c.d", value + "0", "é" + value):
        assert house.keys.sessions.find(broken) is None


async def test_an_open_server_takes_no_changes_from_other_sites(house: House, browser: httpx.AsyncClient) -> None:
    house.app.state.services.keys = await KeyStore.open(house.database, house.follower, house.data, no_auth=True)
    assert (await browser.get("/ui/session")).json()["open"] is True
    evil = await browser.post("/api/v1/adapters", json=NEW, headers={"Origin": "http://evil.test"})
    assert evil.status_code == 403
    assert (await browser.post("/api/v1/adapters", json=NEW, headers=ORIGIN)).status_code == 201
