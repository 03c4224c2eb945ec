"""ID tokens: whether one is the provider's, for this server, of this sign-in, and of now. Needs `multiflora[oidc]`."""

from __future__ import annotations

import hmac
import logging
import time
from typing import Any

import jwt

from multiflora_platform.auth.oidc.provider import Provider
from multiflora_platform.auth.oidc.refusals import clocks_differ, for_another, token_refused, too_long_ago

_log = logging.getLogger(__name__)
LEEWAY_SECONDS = 60
# Those that only the provider can sign with: no `none`, and nothing that is signed with a shared secret.
_ALGORITHMS = frozenset(
    ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "ES256K", "Ed25519")
)
_REQUIRED = ["iss", "sub", "aud", "exp", "iat", "nonce"]


async def claims_of(token: str, provider: Provider, nonce: str, max_age: int | None) -> dict[str, Any]:
    """max_age: seconds since the person signed in at the provider, at most. Raises SignInRefused."""
    try:
        claims = await _verified(token, provider)
    except (jwt.ImmatureSignatureError, jwt.ExpiredSignatureError):
        raise clocks_differ() from None
    except (jwt.InvalidAudienceError, jwt.InvalidIssuerError):
        raise for_another() from None
    except (jwt.PyJWTError, ValueError, TypeError) as error:
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


async def _verified(token: str, provider: Provider) -> dict[str, Any]:
    header = jwt.get_unverified_header(token)
    algorithm, metadata = header.get("alg"), await provider.metadata()
    if algorithm not in _ALGORITHMS.intersection(metadata.id_token_signing_alg_values_supported):
        raise jwt.InvalidAlgorithmError(f"it is signed with {str(algorithm)[:20]!r}")
    key = await provider.signing_key(header.get("kid"))
    if key is None or key.get("alg", algorithm) != algorithm:
        raise jwt.InvalidKeyError("its key is not among those that the provider publishes")
    return jwt.decode(
        token,
        jwt.PyJWK(key, algorithm).key,
        algorithms=[algorithm],
        audience=provider.client_id,
        issuer=provider.issuer,
        leeway=LEEWAY_SECONDS,
        options={"require": _REQUIRED},
    )


def _check_age(auth_time: Any, max_age: int) -> None:
    if not isinstance(auth_time, int):
        _log.warning("an ID token was refused: --oidc-max-age needs its auth_time")
        raise token_refused()
    if time.time() > auth_time + max_age + LEEWAY_SECONDS:
        raise too_long_ago()
