"""Logout tokens (OpenID Connect Back-Channel Logout 1.0): what a provider has ended. Needs `multiflora[oidc]`.

One that comes again ends nothing else than the first time, so none is remembered.
"""

from __future__ import annotations

import jwt

from multiflora_platform.auth.oidc.claims import Claims, identifier
from multiflora_platform.auth.oidc.provider import Provider
from multiflora_platform.auth.oidc.refusals import SignInRefused
from multiflora_platform.auth.oidc.signed_tokens import signed_claims
from multiflora_platform.auth.principals import EndedSignIn

_EVENT = "http://schemas.openid.net/event/backchannel-logout"
_REQUIRED = ("iss", "aud", "iat", "exp", "jti", "events")


class LogoutRefused(Exception):
    """`str()` says why, for the provider's log."""


async def ended_by(token: str, provider: Provider) -> EndedSignIn:
    """Raises LogoutRefused."""
    try:
        claims = await signed_claims(token, provider, _REQUIRED)
    except jwt.PyJWTError as error:
        raise LogoutRefused(f"the logout token is not accepted: {error}") from None
    except SignInRefused:
        raise LogoutRefused("the provider's keys cannot be read") from None
    if "nonce" in claims:
        raise LogoutRefused("a token with a nonce is an ID token, no logout token")
    if not _is_logout(claims):
        raise LogoutRefused(f"its events have no {_EVENT}")
    subject, sign_in = identifier(claims, "sub"), identifier(claims, "sid")
    if subject is None and sign_in is None:
        raise LogoutRefused("it names neither a sub nor a sid")
    return EndedSignIn(subject, sign_in, int(claims["iat"]))


def _is_logout(claims: Claims) -> bool:
    events = claims["events"]
    return isinstance(events, dict) and isinstance(events.get(_EVENT), dict)
