"""The way of a sign-in: to the provider with state, nonce and PKCE, back with a code, to a person. Knows no routes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from multiflora_platform.auth.oidc.attempts import CALLBACK, SignInAttempts
from multiflora_platform.auth.oidc.claims import ClaimRules
from multiflora_platform.auth.oidc.id_tokens import claims_of
from multiflora_platform.auth.oidc.logout_tokens import ended_by
from multiflora_platform.auth.oidc.provider import Provider
from multiflora_platform.auth.oidc.refusals import denied, not_begun_here, provider_said, too_long_ago
from multiflora_platform.auth.principals import EndedSignIn, Person
from multiflora_platform.auth.tenants import Tenants
from multiflora_platform.settings import Settings


@dataclass(frozen=True)
class SignedIn:
    """The outcome of a sign-in."""

    person: Person
    # Unix seconds.
    ends_at: int
    # For the end of the provider's own session.
    id_token: str
    back: str


class SingleSignOn:
    """`begin` sends a browser to the provider, `finish` takes what it comes back with."""

    def __init__(self, settings: Settings, provider: Provider, attempts: SignInAttempts, tenants: Tenants) -> None:
        self.name = settings.oidc_display_name
        self.provider = provider
        self._settings = settings
        self._rules = ClaimRules.of(settings)
        self._attempts = attempts
        self._tenants = tenants

    async def begin(self, site: str, back: str) -> tuple[str, str]:
        """The provider's address for the browser, and the cookie. site: this server as browsers see it. back: where the
        person goes on. Raises SignInRefused."""
        metadata = await self.provider.metadata()
        attempt = self._attempts.begin(back)
        query = {
            "response_type": "code",
            "client_id": self.provider.client_id,
            "redirect_uri": site + CALLBACK,
            "scope": " ".join(dict.fromkeys(["openid", *self._settings.oidc_scopes])),
            "state": self._attempts.state(attempt),
            "nonce": self._attempts.nonce(attempt),
            "code_challenge": self._attempts.challenge(attempt),
            "code_challenge_method": "S256",
        }
        if self._settings.oidc_max_age is not None:
            query["max_age"] = str(self._settings.oidc_max_age)
        return _with_query(metadata.authorization_endpoint, query), self._attempts.sealed(attempt)

    async def finish(self, site: str, query: Mapping[str, str], cookie: str) -> SignedIn:
        """query: of the provider's redirect. Raises SignInRefused, Unavailable."""
        attempt = self._attempts.opened(cookie, query.get("state", ""))
        if attempt is None:
            raise not_begun_here()
        metadata = await self.provider.metadata()
        issuer = query.get("iss", None if metadata.authorization_response_iss_parameter_supported else metadata.issuer)
        if issuer != metadata.issuer:
            raise not_begun_here()
        if "error" in query:
            raise denied() if query["error"] == "access_denied" else provider_said(query["error"])
        tokens = await self.provider.exchange(query.get("code", ""), self._attempts.verifier(attempt), site + CALLBACK)
        nonce, max_age = self._attempts.nonce(attempt), self._settings.oidc_max_age
        claims = await claims_of(tokens.id_token, self.provider, nonce, max_age)
        person = await self._rules.person(await self._completed(claims, tokens.access_token), self._tenants)
        return SignedIn(person, self._end_of(claims), tokens.id_token, attempt.back)

    async def end(self, site: str, id_token: str | None) -> str | None:
        """Where the browser ends the provider's session, too; None: the provider has no such place. Raises
        SignInRefused."""
        endpoint = (await self.provider.metadata()).end_session_endpoint
        if endpoint is None:
            return None
        query = {"client_id": self.provider.client_id, "post_logout_redirect_uri": f"{site}/ui/"}
        return _with_query(endpoint, query | ({} if id_token is None else {"id_token_hint": id_token}))

    async def ended(self, logout_token: str) -> EndedSignIn:
        """Raises LogoutRefused."""
        return await ended_by(logout_token, self.provider)

    async def _completed(self, claims: dict[str, Any], access_token: str) -> dict[str, Any]:
        """Many providers tell groups and addresses at their own endpoint alone."""
        if not self._rules.lack(claims):
            return claims
        further = await self.provider.userinfo(access_token)
        return {**further, **claims} if further.get("sub") == claims["sub"] else claims

    def _end_of(self, claims: Mapping[str, Any]) -> int:
        """Unix seconds. Raises SignInRefused where that is past."""
        ends_at = int(claims["iat"]) + self._settings.oidc_session_seconds
        if self._settings.oidc_max_age is not None:
            ends_at = min(ends_at, int(claims["auth_time"]) + self._settings.oidc_max_age)
        if ends_at <= time.time():
            raise too_long_ago()
        return ends_at


def _with_query(url: str, query: Mapping[str, str]) -> str:
    return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"
