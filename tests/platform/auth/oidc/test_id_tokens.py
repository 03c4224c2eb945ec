"""Which ID tokens are believed: the provider's, for this server and this sign-in, of now; no other lets anybody in."""

from __future__ import annotations

from typing import Any

import pytest
from tests.platform.auth.oidc.conftest import NONCE, PlayedProvider

from multiflora_platform.auth.oidc import provider as provider_module
from multiflora_platform.auth.oidc.id_tokens import claims_of
from multiflora_platform.auth.oidc.refusals import SignInRefused

NOT_TRUSTED, CLOCKS, ANOTHER = "cannot be trusted", "clocks", "another application or from another provider"


async def refused(played: PlayedProvider, token: str, max_age: int | None = None) -> str:
    with pytest.raises(SignInRefused) as caught:
        await claims_of(token, played.provider, NONCE, max_age)
    return str(caught.value)


async def test_a_sound_token_is_believed(played: PlayedProvider) -> None:
    played.add_key("curve", "ES256")
    for_two = played.token(aud=["multiflora", "x"], azp="multiflora")
    for token in (played.token(), played.token("curve", "ES256"), for_two):
        assert (await claims_of(token, played.provider, NONCE, None))["sub"] == "u-1"
    assert played.read.count("/jwks") == 1


@pytest.mark.parametrize(
    ("claims", "part"),
    [
        ({"aud": "another"}, ANOTHER),
        ({"aud": ["multiflora", "another"]}, ANOTHER),
        ({"azp": "another"}, ANOTHER),
        ({"iss": "https://evil.test"}, ANOTHER),
        ({"exp": -120}, CLOCKS),
        ({"iat": 600, "exp": 900}, CLOCKS),
        ({"nbf": 600}, CLOCKS),
        ({"nonce": "m" * 64}, NOT_TRUSTED),
        ({"nonce": None}, NOT_TRUSTED),
        ({"sub": None}, NOT_TRUSTED),
        ({"exp": None}, NOT_TRUSTED),
    ],
)
async def test_a_claim_that_is_wrong_lets_nobody_in(played: PlayedProvider, claims: dict[str, Any], part: str) -> None:
    assert part in await refused(played, played.token(**claims))


async def test_a_minute_between_clocks_is_forgiven(played: PlayedProvider) -> None:
    await claims_of(played.token(iat=30, exp=330), played.provider, NONCE, None)
    await claims_of(played.token(exp=-30), played.provider, NONCE, None)


async def test_nothing_but_the_providers_own_keys_signs(played: PlayedProvider) -> None:
    played.add_key("strange")
    del played.public[1]
    stranger = played.keys["strange"]
    shared = played.provider._client_secret or ""
    tokens = [
        played.token(key=stranger),
        played.token("strange"),
        played.token(algorithm="none", key=""),
        played.token(algorithm="HS256", key=shared * 8),
        played.token()[:-9] + "AAAAAAAAA",
        played.token().replace(".", "!"),
        "",
    ]
    for token in tokens:
        assert NOT_TRUSTED in await refused(played, token)
    played.metadata["id_token_signing_alg_values_supported"] = ["ES256"]
    played.provider._metadata = None
    assert NOT_TRUSTED in await refused(played, played.token())
    played.metadata["id_token_signing_alg_values_supported"] = ["RS256", "RS512"]
    played.public[0]["alg"] = "RS512"
    played.provider._metadata = played.provider._keys = None
    assert NOT_TRUSTED in await refused(played, played.token())


async def test_a_token_without_a_key_id_is_the_only_keys(played: PlayedProvider) -> None:
    await claims_of(played.token(None), played.provider, NONCE, None)
    played.add_key("second")
    played.provider._keys = None
    assert NOT_TRUSTED in await refused(played, played.token(None))


async def test_new_keys_are_read_when_one_is_unknown_but_not_for_every_token(
    played: PlayedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(provider_module.time, "monotonic", lambda: clock[0])
    await claims_of(played.token(), played.provider, NONCE, None)
    played.add_key("rotated")
    for _ in range(3):
        assert NOT_TRUSTED in await refused(played, played.token("rotated"))
    assert played.read.count("/jwks") == 1
    clock[0] += 31
    await claims_of(played.token("rotated"), played.provider, NONCE, None)
    assert played.read.count("/jwks") == 2
    withdrawn = played.token()
    del played.public[0]
    clock[0] += 3601
    assert NOT_TRUSTED in await refused(played, withdrawn)


async def test_how_long_ago_a_person_signed_in_counts_where_that_is_asked(played: PlayedProvider) -> None:
    await claims_of(played.token(auth_time=-500), played.provider, NONCE, 600)
    assert "longer ago" in await refused(played, played.token(auth_time=-700), 600)
    assert NOT_TRUSTED in await refused(played, played.token(), 600)
