"""The provider: what its discovery document says, its signing keys, and what it gives for a code. Knows no claims.

All that is kept of it can be read again, so that each server has its own copy.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from functools import cache
from typing import Any, TypeVar
from urllib.parse import quote_plus, urlsplit

import httpx
import msgspec

from multiflora_platform.auth.oidc.refusals import (
    SignInRefused,
    code_spent,
    provider_away,
    provider_said,
    provider_unusable,
    wrong_client,
)
from multiflora_platform.settings import is_safe_url

_log = logging.getLogger(__name__)
_SECONDS = 10.0
# After so long both documents are read anew: a key that was withdrawn is not trusted for longer.
_KEPT_SECONDS = 3600.0
# Between two readings of the keys for a token whose key is unknown, and after one that failed.
_REREAD_SECONDS = 30.0
_FAILED_SECONDS = 5.0
_LARGEST = 1 << 20
T = TypeVar("T")


class Metadata(msgspec.Struct, frozen=True):
    """Of a discovery document, what is used here."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None = None
    end_session_endpoint: str | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    id_token_signing_alg_values_supported: tuple[str, ...] = ("RS256",)
    authorization_response_iss_parameter_supported: bool = False
    backchannel_logout_supported: bool = False

    @property
    def endpoints(self) -> list[str]:
        optional = (self.userinfo_endpoint, self.end_session_endpoint)
        return [self.authorization_endpoint, self.token_endpoint, self.jwks_uri, *filter(None, optional)]


class Tokens(msgspec.Struct, frozen=True):
    """What a code was exchanged for."""

    id_token: str
    access_token: str = ""


class _Keys(msgspec.Struct, frozen=True):
    keys: list[dict[str, Any]]


class Provider:
    """Each method raises SignInRefused."""

    def __init__(
        self, issuer: str, client_id: str, client_secret: str | None, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        """client_secret: None for a public client, which PKCE alone protects. transport: None: the network."""
        self.issuer = issuer
        self.client_id = client_id
        self._client_secret = client_secret
        self._transport = transport
        self._http: httpx.AsyncClient | None = None
        self._lock = asyncio.Lock()
        # Each with the moment (time.monotonic) at which it was read.
        self._metadata: tuple[float, Metadata] | None = None
        self._keys: tuple[float, list[dict[str, Any]]] | None = None
        self._failed_at: float | None = None

    async def metadata(self) -> Metadata:
        async with self._lock:
            return await self._fresh_metadata()

    async def signing_key(self, kid: str | None) -> dict[str, Any] | None:
        """As a JWK; None: the provider publishes no such key. kid: None: the only one that there is."""
        async with self._lock:
            metadata = await self._fresh_metadata()
            if self._keys is None or _age(self._keys[0]) > _KEPT_SECONDS:
                await self._read_keys(metadata)
            found = self._known_key(kid)
            if found is None and self._keys is not None and _age(self._keys[0]) > _REREAD_SECONDS:
                await self._read_keys(metadata)
                found = self._known_key(kid)
            return found

    async def exchange(self, code: str, verifier: str, redirect_uri: str) -> Tokens:
        metadata = await self.metadata()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        auth = None
        if self._client_secret is None:
            form["client_id"] = self.client_id
        elif "client_secret_basic" in metadata.token_endpoint_auth_methods_supported:
            auth = httpx.BasicAuth(quote_plus(self.client_id), quote_plus(self._client_secret))
        else:
            form |= {"client_id": self.client_id, "client_secret": self._client_secret}
        response = await self._send("POST", metadata.token_endpoint, data=form, auth=auth)
        if response.status_code != 200:
            raise _refused(response)
        return _decoded(response, Tokens)

    async def userinfo(self, access_token: str) -> dict[str, Any]:
        """What the provider tells beside the ID token; {} where it tells nothing in JSON."""
        endpoint = (await self.metadata()).userinfo_endpoint
        if endpoint is None or not access_token:
            return {}
        response = await self._send("GET", endpoint, headers={"Authorization": f"Bearer {access_token}"})
        if response.status_code != 200 or "json" not in response.headers.get("content-type", ""):
            return {}
        return _decoded(response, dict[str, Any])

    async def close(self) -> None:
        if self._http is not None:
            await self._http.aclose()

    async def _fresh_metadata(self) -> Metadata:
        """Where it cannot be read anew, what was read last serves on."""
        if self._metadata is not None and _age(self._metadata[0]) < _KEPT_SECONDS:
            return self._metadata[1]
        try:
            found = await self._read(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration", Metadata)
        except SignInRefused:
            if self._metadata is not None:
                return self._metadata[1]
            raise
        if found.issuer != self.issuer:
            _log.warning("the sign-in provider calls itself %.200s; give that as --oidc-issuer", found.issuer)
            raise provider_unusable()
        if unsafe := [url for url in found.endpoints if not is_safe_url(url)]:
            _log.warning("the sign-in provider's endpoint %.200s is not HTTPS", unsafe[0])
            raise provider_unusable()
        self._metadata = (time.monotonic(), found)
        return found

    async def _read_keys(self, metadata: Metadata) -> None:
        found = await self._read(metadata.jwks_uri, _Keys)
        self._keys = (time.monotonic(), [key for key in found.keys if key.get("use", "sig") == "sig"])

    def _known_key(self, kid: str | None) -> dict[str, Any] | None:
        keys = [] if self._keys is None else self._keys[1]
        if kid is None:
            return keys[0] if len(keys) == 1 else None
        return next((key for key in keys if key.get("kid") == kid), None)

    async def _read(self, url: str, kind: type[T]) -> T:
        """One of the two documents. Those who sign in while the provider is away do not queue for its silence."""
        if self._failed_at is not None and _age(self._failed_at) < _FAILED_SECONDS:
            raise provider_away()
        try:
            response = await self._send("GET", url)
            if response.status_code != 200:
                _log.warning("the sign-in provider answered %d at %s", response.status_code, url)
                raise provider_away() if response.status_code >= 500 else provider_unusable()
            found = _decoded(response, kind)
        except SignInRefused:
            self._failed_at = time.monotonic()
            raise
        self._failed_at = None
        return found

    async def _send(self, method: str, url: str, **options: Any) -> httpx.Response:
        if self._http is None:
            context = await asyncio.to_thread(_certificates)
            self._http = httpx.AsyncClient(verify=context, transport=self._transport, follow_redirects=False)
        options.setdefault("headers", {})["Accept"] = "application/json"
        try:
            async with asyncio.timeout(_SECONDS):
                response = await self._http.request(method, url, **options)
        except (TimeoutError, httpx.TransportError, httpx.InvalidURL) as error:
            _log.warning("the sign-in provider cannot be reached at %s: %s", urlsplit(url).netloc, error or "no answer")
            raise provider_away() from None
        if len(response.content) > _LARGEST:
            raise provider_unusable()
        return response


@cache
def _certificates() -> ssl.SSLContext:
    """As the environment says, for a provider may be the operator's own. Reading them takes a while."""
    return httpx.create_ssl_context()


def _age(moment: float) -> float:
    return time.monotonic() - moment


def _refused(response: httpx.Response) -> SignInRefused:
    """Of an answer to a code."""
    try:
        error = str(msgspec.json.decode(response.content, type=dict[str, Any]).get("error", ""))
    except (msgspec.DecodeError, msgspec.ValidationError):
        error = ""
    _log.warning("the sign-in provider refused a code with %d %.40r", response.status_code, error)
    if error == "invalid_grant":
        return code_spent()
    if error in ("invalid_client", "unauthorized_client"):
        return wrong_client()
    return provider_away() if response.status_code >= 500 else provider_said(error)


def _decoded(response: httpx.Response, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(response.content, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        _log.warning("the sign-in provider's answer at %s: %s", response.url.path, error)
        raise provider_unusable() from None
