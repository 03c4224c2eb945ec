"""Signing in by OpenID Connect against a certified provider: who comes in as what, what is refused, and how it ends."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from sqlalchemy import select
from tests.platform.registry.house import House
from tests.platform.ui.oidc import (
    CLIENT,
    CLIENT_OF_PERSONS,
    SITE,
    Visitor,
    listening,
    provider,
    settings_for,
    use,
)

from multiflora_platform.auth.oidc import attempts
from multiflora_platform.auth.oidc.opening import sign_on_checks
from multiflora_platform.auth.principals import EndedSignIn
from multiflora_platform.storage.tables import AuditRow


@pytest.fixture(scope="module")
def ear() -> Iterator[socket.socket]:
    """Where the provider finds our server."""
    with socket.create_server(("127.0.0.1", 0)) as ear:
        yield ear


@pytest.fixture(scope="module")
def issuer(ear: socket.socket) -> Iterator[str]:
    with provider(f"http://127.0.0.1:{ear.getsockname()[1]}") as address:
        yield address


class Unowned(set[int]):
    """Of the database: no event is this process's own, whenever its follower looks."""

    def __contains__(self, event: object) -> bool:
        return False


class Town:
    """What a test opens in the house: servers that use a provider, and visitors. All of it is closed at its end."""

    def __init__(self, house: House, issuer: str) -> None:
        self._house, self._issuer = house, issuer
        self._opened = AsyncExitStack()
        self.close = self._opened.aclose

    async def serve(self, **settings: Any) -> None:
        sign_on = await use(self._house, **{"issuer": self._issuer, **settings})
        self._opened.push_async_callback(sign_on.provider.close)

    def visitor(self) -> Visitor:
        visitor = Visitor(self._house)
        self._opened.push_async_callback(visitor.close)
        return visitor


@pytest.fixture
async def town(house: House, issuer: str) -> AsyncIterator[Town]:
    town = Town(house, issuer)
    yield town
    await town.close()


@pytest.fixture
async def visitor(town: Town) -> Visitor:
    await town.serve()
    return town.visitor()


async def refusal(visitor: Visitor, answer: httpx.Response) -> str:
    """The sentence on the sign-in page; it is told once, and nobody is signed in."""
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/")
    told = await visitor.who()
    assert told.keys() == {"signed_in", "single_sign_on", "refusal"}, told
    assert (await visitor.who()).keys() == {"signed_in", "single_sign_on"}
    return str(told["refusal"])


async def audited(house: House) -> list[tuple[str, str]]:
    async with house.database.read() as session:
        rows = await session.scalars(select(AuditRow).order_by(AuditRow.id))
        return [(row.actor, row.action) for row in rows]


async def test_a_person_comes_in_as_an_administrator_and_goes_on_where_they_were(
    house: House, visitor: Visitor
) -> None:
    assert (await visitor.who())["single_sign_on"] == "single sign-on"
    url = await visitor.begin()
    asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    assert (asked["code_challenge_method"], asked["response_type"]) == ("S256", "code")
    assert len({asked["state"], asked["nonce"], asked["code_challenge"]}) == 3
    answer = await visitor.here.get(await visitor.at_provider(url, "u-alice"))
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/requests?status=429")
    name = f"{house.keys.sessions.cookie}="
    (cookie,) = (one for one in answer.headers.get_list("set-cookie") if one.startswith(name))
    assert all(part in cookie for part in ("HttpOnly", "SameSite=strict"))
    shown = await visitor.who()
    assert (shown["role"], shown["tenant"], shown["person"]) == ("admin", None, "alice@example.com")
    change = {"Origin": SITE, "X-CSRF-Token": shown["csrf"]}
    assert (await visitor.here.post("/api/v1/adapters", json={"name": "made"})).status_code == 403, "no CSRF token"
    assert (await visitor.here.post("/api/v1/adapters", json={"name": "made"}, headers=change)).status_code == 201
    who = "admin/oidc:alice@example.com"
    assert await audited(house) == [(who, "session.opened"), (who, "adapter.created")]


async def test_a_person_of_a_tenant_is_that_tenant(house: House, visitor: Visitor) -> None:
    await house.keys.tenants.create("test", "acme")
    await visitor.sign_in("u-bob")
    shown = await visitor.who()
    assert (shown["role"], shown["tenant"]) == ("tenant", "acme")
    assert shown["person"] == "u-bob", "an address that is not verified could be anybody's"
    assert (await visitor.here.get("/api/v1/keys")).status_code == 403
    assert (await visitor.here.get("/api/v1/usage")).status_code == 200
    await house.keys.tenants.amend("test", "acme", disabled=True)
    assert (await visitor.here.get("/api/v1/usage")).status_code == 403


@pytest.mark.parametrize(
    ("login", "part"),
    [
        ("u-bob", "belongs to acme, which this server does not know as a tenant"),
        ("u-carol", "groups or tenant of the account gives no role here"),
        (None, "cancelled"),
    ],
)
async def test_whoever_has_no_role_stays_outside(visitor: Visitor, login: str | None, part: str) -> None:
    assert part in await refusal(visitor, await visitor.sign_in(login))


async def test_a_tenant_is_made_where_the_settings_say_so(house: House, town: Town) -> None:
    await town.serve(oidc_create_tenants=True)
    visitor = town.visitor()
    await visitor.sign_in("u-dave")
    assert (await visitor.who())["tenant"] == "globex"
    assert ("system/oidc:u-dave", "tenant.created") in await audited(house)


async def test_an_answer_counts_once_and_in_its_own_browser(house: House, town: Town, visitor: Visitor) -> None:
    url = await visitor.at_provider(await visitor.begin(), "u-alice")
    stranger = town.visitor()
    assert "not begun in this browser" in await refusal(stranger, await stranger.here.get(url))
    name = f"{house.keys.sessions.cookie}_attempt"
    kept = visitor.here.cookies[name]
    await visitor.here.get(url)
    assert name not in visitor.here.cookies
    stranger.here.cookies.set(name, kept, path="/ui/oidc")
    assert "used already" in await refusal(stranger, await stranger.here.get(url))


async def test_another_state_issuer_or_moment_is_none(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    for changed in ({"state": "0" * 64}, {"iss": "https://evil.test"}):
        url = httpx.URL(await visitor.at_provider(await visitor.begin(), "u-alice"))
        answer = await visitor.here.get(url.copy_merge_params(changed))
        assert "not begun in this browser" in await refusal(visitor, answer)
    late = await visitor.at_provider(await visitor.begin(), "u-alice")
    now = attempts.time.time()
    monkeypatch.setattr(attempts.time, "time", lambda: now + attempts.PATIENCE_SECONDS + 1)
    assert "longer than ten minutes" in await refusal(visitor, await visitor.here.get(late))


@pytest.mark.parametrize(
    "back",
    ["https://evil.test/", "//evil.test/ui/", "/ui//evil.test", "/\\evil.test", "/ui/\r\nX: y", "/api", "/ui/oidc"],
)
async def test_it_leads_to_no_other_site(visitor: Visitor, back: str) -> None:
    url = await visitor.begin(back)
    answer = await visitor.here.get(await visitor.at_provider(url, "u-alice"))
    assert answer.headers["location"] == "/ui/"
    assert (await visitor.who())["signed_in"]


async def test_another_server_on_the_database_finishes_it_and_knows_its_end(
    house: House, town: Town, visitor: Visitor, issuer: str
) -> None:
    url = await visitor.at_provider(await visitor.begin(), "u-alice")
    first, attempt = house.keys, visitor.here.cookies[f"{house.keys.sessions.cookie}_attempt"]
    await town.serve()
    assert house.keys is not first
    assert attempt
    assert (await visitor.here.get(url)).headers["location"].startswith("/ui/requests")
    value = visitor.here.cookies[first.sessions.cookie]
    assert first.sessions.find(value) is not None
    shown = await visitor.who()
    house.database.own_events.clear()  # as if another process had written them
    gone = await visitor.here.delete("/ui/session", headers={"Origin": SITE, "X-CSRF-Token": shown["csrf"]})
    house.database.own_events.clear()
    await house.follower.catch_up()
    assert first.sessions.find(value) is None
    await town.serve()
    assert house.keys.sessions.find(value) is None, "nor does a restart bring it back"
    end = urlsplit(gone.json()["go_to"])
    assert f"{end.scheme}://{end.netloc}" == issuer
    page = await visitor.there.get(gone.json()["go_to"])
    assert page.status_code == 200, "the provider takes the token and the address to come back to"
    assert "Do you want to sign-out" in page.text


@pytest.mark.parametrize(("client", "ends_all"), [(CLIENT, False), (CLIENT_OF_PERSONS, True)])
async def test_the_provider_ends_sessions_on_all_servers(
    house: House, town: Town, issuer: str, ear: socket.socket, client: str, ends_all: bool
) -> None:
    await town.serve(oidc_client_id=client)
    first = house.keys.sessions
    gone, other, stranger = town.visitor(), town.visitor(), town.visitor()
    for visitor, login in ((gone, "u-alice"), (other, "u-alice"), (stranger, "u-eve")):
        await visitor.sign_in(login)
        assert (await visitor.who())["signed_in"]
    await town.serve(oidc_client_id=client)
    house.database.own_events = Unowned()  # as if another process had written what comes
    async with listening(house, ear):
        await gone.sign_out_at(issuer)
    await house.follower.catch_up()
    for sessions in (first, house.keys.sessions):
        found = [sessions.find(one.here.cookies[sessions.cookie]) for one in (gone, other, stranger)]
        assert [one is not None for one in found] == [False, not ends_all, True]
    assert ("system/oidc", "session.closed") in await audited(house)
    assert not (await gone.who())["signed_in"]
    await town.serve(oidc_client_id=client)
    assert not (await gone.who())["signed_in"], "nor does a restart bring it back"


async def test_what_the_provider_ends_before_the_browser_is_back_opens_nothing(house: House, visitor: Visitor) -> None:
    url = await visitor.at_provider(await visitor.begin(), "u-alice")
    await house.keys.sessions.end(EndedSignIn("u-alice", None, int(time.time()) + 1))
    assert "has ended this sign-in already" in await refusal(visitor, await visitor.here.get(url))


async def test_only_the_providers_word_ends_a_session(visitor: Visitor) -> None:
    await visitor.sign_in("u-alice")
    for form in ({"logout_token": "x.y.z"}, {"token": "x"}, {}):
        told = await visitor.here.post("/ui/oidc/backchannel-logout", data=form)
        assert (told.status_code, told.json()["error"]) == (400, "invalid_request")
        assert told.headers["cache-control"] == "no-store"
    assert (await visitor.here.post("/ui/oidc/backchannel-logout", content=b"a" * (1 << 21))).status_code == 413
    assert (await visitor.who())["signed_in"]


async def test_another_client_of_the_provider_has_no_sessions_here(house: House, town: Town, visitor: Visitor) -> None:
    await visitor.sign_in("u-alice")
    value = visitor.here.cookies[house.keys.sessions.cookie]
    await town.serve(oidc_client_id="another")
    assert house.keys.sessions.find(value) is None


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"oidc_client_secret": "wrong"}, "does not accept this server"),
        ({"issuer": "http://127.0.0.1:9"}, "does not answer"),
    ],
)
async def test_what_is_wrong_with_the_provider_is_said(town: Town, settings: dict[str, Any], part: str) -> None:
    await town.serve(**settings)
    visitor = town.visitor()
    begun = await visitor.here.get("/ui/oidc")
    url = begun.headers["location"]
    answer = begun if url == "/ui/" else await visitor.here.get(await visitor.at_provider(url, "u-alice"))
    assert part in await refusal(visitor, answer)


async def test_doctor_asks_the_provider(issuer: str) -> None:
    (row,) = await sign_on_checks(settings_for(issuer))
    assert row["state"] == "ok"
    assert "with an end of its sessions, and tells servers of sign-outs" in row["found"]
    (row,) = await sign_on_checks(settings_for(issuer + "/other"))
    assert row["state"] == "error"
    assert await sign_on_checks(settings_for(issuer).model_copy(update={"oidc_issuer": None})) == []


async def test_without_a_provider_there_is_no_such_page(browser: httpx.AsyncClient) -> None:
    assert (await browser.get("/ui/oidc")).status_code == 404
    assert (await browser.get("/ui/oidc/callback?state=x&code=y")).status_code == 404
    assert (await browser.post("/ui/oidc/backchannel-logout")).status_code == 404
