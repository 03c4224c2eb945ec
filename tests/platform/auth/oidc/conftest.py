"""A provider that is played: its documents and keys are what a test says, and so are the tokens that it signs."""

from __future__ import annotations

import json
import time
from functools import cache
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from multiflora_platform.auth.oidc.provider import Provider

ISSUER, CLIENT, NONCE = "https://login.test", "multiflora", "n" * 64
_MOMENTS = ("iat", "nbf", "exp", "auth_time")


@cache
def _new_key(kid: str, algorithm: str) -> tuple[Any, dict[str, Any]]:
    """Private and public; a session makes each once, for primes take a while."""
    if algorithm == "RS256":
        large = rsa.generate_private_key(65537, 2048)
        return large, json.loads(RSAAlgorithm.to_jwk(large.public_key()))
    curve = ec.generate_private_key(ec.SECP256R1())
    return curve, json.loads(ECAlgorithm.to_jwk(curve.public_key()))


class PlayedProvider:
    """`provider` asks it. read: the paths that were asked for."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.is_away = False
        self.metadata: dict[str, Any] = {
            "issuer": ISSUER,
            "authorization_endpoint": f"{ISSUER}/auth",
            "token_endpoint": f"{ISSUER}/token",
            "jwks_uri": f"{ISSUER}/jwks",
            "userinfo_endpoint": f"{ISSUER}/me",
            "id_token_signing_alg_values_supported": ["RS256", "ES256", "HS256", "none"],
        }
        self.keys: dict[str, Any] = {}
        self.public: list[dict[str, Any]] = []
        self.answers: dict[str, httpx.Response] = {}
        self.add_key("first")
        self.provider = Provider(ISSUER, CLIENT, "secret", httpx.MockTransport(self._answer))

    def add_key(self, kid: str, algorithm: str = "RS256") -> None:
        self.keys[kid], public = _new_key(kid, algorithm)
        self.public.append({**public, "kid": kid, "use": "sig"})

    def token(self, kid: str | None = "first", algorithm: str = "RS256", key: Any = None, **claims: Any) -> str:
        """A claim that is None is left out; moments are seconds from now."""
        usual = {"iss": ISSUER, "sub": "u-1", "aud": CLIENT, "iat": 0, "exp": 300, "nonce": NONCE}
        present = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        now = int(time.time())
        present |= {name: now + present[name] for name in _MOMENTS if name in present}
        headers = {} if kid is None else {"kid": kid}
        signer = self.keys[kid or "first"] if key is None else key
        return jwt.encode(present, signer, algorithm, headers)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.read.append(request.url.path)
        if self.is_away:
            raise httpx.ConnectError("refused")
        if request.url.path == "/.well-known/openid-configuration":
            return httpx.Response(200, json=self.metadata)
        if request.url.path == "/jwks":
            return httpx.Response(200, json={"keys": self.public})
        return self.answers[request.url.path]


@pytest.fixture
def played() -> PlayedProvider:
    return PlayedProvider()
