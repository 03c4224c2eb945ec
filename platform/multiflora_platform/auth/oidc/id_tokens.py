"""ID tokens: whether one lets a person in, and why not. Needs `multiflora[oidc]`."""

from __future__ import annotations

import hmac
import logging
import time
from typing import Any

import jwt

from multiflora_platform.auth.oidc.provider import Provider
from multiflora_platform.auth.oidc.refusals import clocks_differ, for_another, token_refused, too_long_ago
from multiflora_platform.auth.oidc.signed_tokens import LEEWAY_SECONDS, signed_claims

_log = logging.getLogger(__name__)
_REQUIRED = ("iss", "sub", "aud", "exp", "iat", "nonce")


async def claims_of(token: str, provider: Provider, nonce: str, max_age: int | None) -> dict[str, Any]:
    """max_age: seconds since the person signed in at the provider, at most. Raises SignInRefused."""
    try:
        claims = await signed_claims(token, provider, _REQUIRED)
    except (jwt.ImmatureSignatureError, jwt.ExpiredSignatureError):
        raise clocks_differ() from None
    except (jwt.InvalidAudienceError, jwt.InvalidIssuerError):
        raise for_another() from None
    except jwt.PyJWTError as error:
        _log.warning("an ID token was refused: %s: %s", type(error).__name__, error)
        raise token_refused() from None
    if not hmac.compare_digest(str(claims["nonce"]).encode(), nonce.encode()):
        _log.warning("an ID token was refused: it is of another sign-in (nonce)")
        raise token_refused()
    audience = claims["aud"]
    authorised = claims.get("azp", provider.client_id if isinstance(audience, str) or len(audience) == 1 else None)
    if authorised != provider.client_id:
        raise for_another()
    if max_age is not None:
        _check_age(claims.get("auth_time"), max_age)
    return claims


def _check_age(auth_time: Any, max_age: int) -> None:
    if not isinstance(auth_time, int):
        _log.warning("an ID token was refused: --oidc-max-age needs its auth_time")
        raise token_refused()
    if time.time() > auth_time + max_age + LEEWAY_SECONDS:
        raise too_long_ago()
