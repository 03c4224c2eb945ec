"""Sign-ins on their way: a signed cookie in the browser alone, so that any server finishes what another began.

State, nonce and verifier are derived from its id under the server's secret: none of them is kept.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time

import msgspec

from multiflora_platform.auth.secret import Secret

CALLBACK = "/ui/oidc/callback"
BACK_CHANNEL = "/ui/oidc/backchannel-logout"
PATIENCE_SECONDS = 600
"""For a person to sign in at the provider."""


class SignInAttempt(msgspec.Struct, frozen=True):
    """One sign-in; the cookie holds it."""

    id: str
    # Unix seconds.
    ends_at: int
    # The address within the UI that the person wanted.
    back: str


class SignInAttempts:
    def __init__(self, secret: Secret) -> None:
        self._secret = secret

    def begin(self, back: str) -> SignInAttempt:
        return SignInAttempt(secrets.token_hex(16), int(time.time()) + PATIENCE_SECONDS, back)

    def sealed(self, attempt: SignInAttempt) -> str:
        """The cookie's value."""
        return self._secret.sealed("oidc-attempt", msgspec.json.encode(attempt))

    def opened(self, cookie: str, state: str) -> SignInAttempt | None:
        """None: not one of ours, over, or not the one that this state belongs to."""
        found = self._secret.unsealed("oidc-attempt", cookie)
        if found is None:
            return None
        attempt = msgspec.json.decode(found, type=SignInAttempt)
        is_same = hmac.compare_digest(self.state(attempt).encode(), state.encode("utf-8", "surrogatepass"))
        return attempt if is_same and attempt.ends_at > time.time() else None

    def state(self, attempt: SignInAttempt) -> str:
        return self._secret.derive("oidc-state", attempt.id)

    def nonce(self, attempt: SignInAttempt) -> str:
        return self._secret.derive("oidc-nonce", attempt.id)

    def verifier(self, attempt: SignInAttempt) -> str:
        """64 hex digits, which PKCE (RFC 7636) accepts."""
        return self._secret.derive("oidc-verifier", attempt.id)

    def challenge(self, attempt: SignInAttempt) -> str:
        """S256 of the verifier."""
        digest = hashlib.sha256(self.verifier(attempt).encode()).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
