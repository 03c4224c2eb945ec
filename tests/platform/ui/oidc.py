"""A certified provider in a process of its own, a server that uses it and that it can call, and a person who signs in
there by HTTP."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
import uvicorn
from tests.platform.registry.house import House

from multiflora_platform.auth.keys import KeyStore
from multiflora_platform.auth.oidc.attempts import BACK_CHANNEL
from multiflora_platform.auth.oidc.opening import identity_of, open_sign_on
from multiflora_platform.auth.oidc.sign_on import SingleSignOn
from multiflora_platform.settings import Settings, flag

SITE = "http://127.0.0.1:18473"
# Of the second the provider ends a person's sessions, not one alone.
CLIENT, CLIENT_OF_PERSONS = "multiflora", "multiflora-of-persons"
SECRET = "of the client & more"
ACCOUNTS: dict[str, dict[str, Any]] = {
    "u-alice": {"email": "alice@example.com", "email_verified": True, "groups": ["staff", "llm-admins"]},
    "u-bob": {"email": "bob@example.com", "email_verified": False, "groups": ["staff"], "tenant": "acme"},
    "u-carol": {"groups": ["staff"]},
    "u-dave": {"tenant": "globex"},
    "u-eve": {"groups": ["llm-admins"]},
}
_FOLDER = Path(__file__).parent / "oidc_provider"


@contextmanager
def provider(called: str = SITE) -> Iterator[str]:
    """Its address. called: where it finds our server. Skips the test where Node.js or the package is missing."""
    if shutil.which("node") is None or not (_FOLDER / "node_modules").is_dir():
        pytest.skip("Node.js or oidc-provider is missing; `make tools` installs the package where there is npm")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    client = {
        "client_id": CLIENT,
        "client_secret": SECRET,
        "redirect_uris": [f"{SITE}/ui/oidc/callback"],
        "post_logout_redirect_uris": [f"{SITE}/ui/"],
        "backchannel_logout_uri": called + BACK_CHANNEL,
        "backchannel_logout_session_required": True,
    }
    of_persons = {**client, "client_id": CLIENT_OF_PERSONS, "backchannel_logout_session_required": False}
    process = subprocess.Popen(
        ["node", "provider.mjs", str(port)],
        cwd=_FOLDER,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps({"accounts": ACCOUNTS, "clients": [client, of_persons]}))
        process.stdin.close()
        assert process.stdout.readline() == "ready\n"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def serve_flags(issuer: str) -> list[str]:
    """For `multiflora serve` at SITE."""
    settings = settings_for(issuer)
    names = ("oidc_issuer", "oidc_client_id", "oidc_client_secret", "oidc_tenant_claim")
    flags = [f"{flag(name)}={getattr(settings, name)}" for name in names]
    many = [f"{flag(name)}={one}" for name in ("oidc_admin_value", "oidc_scopes") for one in getattr(settings, name)]
    return [*flags, *many, "--port", str(urlsplit(SITE).port)]


def settings_for(issuer: str, **further: Any) -> Settings:
    return Settings(
        **{
            "oidc_issuer": issuer,
            "oidc_client_id": CLIENT,
            "oidc_client_secret": SECRET,
            "oidc_scopes": "openid email groups",
            "oidc_admin_value": ["llm-admins"],
            "oidc_tenant_claim": "tenant",
            **further,
        }
    )


async def use(house: House, issuer: str, **further: Any) -> SingleSignOn:
    """The house's server asks this provider from now on; the caller closes it."""
    settings = settings_for(issuer, **further)
    house.keys = await KeyStore.open(
        house.database, house.follower, house.data, admin_keys=["mf-admin-for-tests"], provider=identity_of(settings)
    )
    sign_on = open_sign_on(settings, house.keys)
    assert sign_on is not None
    services = house.app.state.services
    services.keys, services.sign_on, services.settings = house.keys, sign_on, settings
    return sign_on


@asynccontextmanager
async def listening(house: House, ear: socket.socket) -> AsyncIterator[None]:
    """The house's server answers the provider's calls. ear: connections wait there until it does."""
    server = uvicorn.Server(uvicorn.Config(house.app, log_config=None, lifespan="off"))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve([ear.dup()]))
        yield
        server.should_exit = True


class Visitor:
    """A browser at our server, and at the provider."""

    def __init__(self, house: House) -> None:
        transport = httpx.ASGITransport(app=house.app)
        self.here = httpx.AsyncClient(transport=transport, base_url=SITE)
        self.there = httpx.AsyncClient()

    async def begin(self, back: str = "/ui/requests?status=429") -> str:
        """The provider's address for this sign-in."""
        return str((await self.here.get("/ui/oidc", params={"back": back})).headers["location"])

    async def at_provider(self, url: str, login: str | None) -> str:
        """Where the provider sends the browser back to. login: None: the person cancels."""
        while not url.startswith(SITE):
            response = await self.there.get(url)
            if response.status_code == 200:  # a page with a form
                response = await self._answer(url, response.text, login)
            url = urljoin(url, response.headers["location"])
        return url.removeprefix(SITE)

    async def _answer(self, url: str, page: str, login: str | None) -> httpx.Response:
        if login is None:
            return await self.there.get(f"{url}/abort")
        prompt = re.findall(r'name="prompt" value="(\w+)"', page)[0]
        return await self.there.post(url, data={"prompt": prompt, "login": login, "password": "any"})

    async def sign_in(self, login: str | None) -> httpx.Response:
        """The answer to the provider's redirect."""
        return await self.here.get(await self.at_provider(await self.begin(), login))

    async def sign_out_at(self, issuer: str) -> None:
        """Of the provider, and so of all its clients."""
        page = await self.there.get(f"{issuer}/session/end")
        secret = re.findall(r'name="xsrf" value="(\w+)"', page.text)[0]
        done = await self.there.post(f"{issuer}/session/end/confirm", data={"xsrf": secret, "logout": "yes"})
        assert done.status_code == 303, done.text

    async def who(self) -> dict[str, Any]:
        return dict((await self.here.get("/ui/session")).json())

    async def close(self) -> None:
        await self.here.aclose()
        await self.there.aclose()
