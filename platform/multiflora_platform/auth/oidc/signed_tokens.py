"""Tokens that a provider signs: whether one is its own, for this server, and of now. Needs `multiflora[oidc]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jwt

from multiflora_platform.auth.oidc.provider import Provider

LEEWAY_SECONDS = 60
# Those that only the provider can sign with: no `none`, and nothing that is signed with a shared secret.
_ALGORITHMS = frozenset(
    ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "ES256K", "Ed25519")
)


async def signed_claims(token: str, provider: Provider, required: Sequence[str]) -> dict[str, Any]:
    """required: claims that must be there. Raises jwt.PyJWTError, and SignInRefused while the provider's keys cannot be
    read."""
    try:
        return await _verified(token, provider, required)
    except (ValueError, TypeError) as error:
        raise jwt.InvalidTokenError(str(error)) from None


async def _verified(token: str, provider: Provider, required: Sequence[str]) -> dict[str, Any]:
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
        options={"require": list(required)},
    )
