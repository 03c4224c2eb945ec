"""Which logout tokens are believed, and what they end: the provider's, for this server, of now, and no ID token."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tests.platform.auth.oidc.conftest import NONCE, PlayedProvider

from multiflora_platform.auth.oidc.id_tokens import claims_of
from multiflora_platform.auth.oidc.logout_tokens import LogoutRefused, ended_by
from multiflora_platform.auth.oidc.refusals import SignInRefused

EVENT = "http://schemas.openid.net/event/backchannel-logout"


def logout(played: PlayedProvider, **claims: Any) -> str:
    """claims: as of PlayedProvider.token; one that is None is left out."""
    return played.token(**{"nonce": None, "jti": "j-1", "events": {EVENT: {}}, **claims})


@pytest.mark.parametrize(
    ("claims", "subject", "sign_in"),
    [({}, "u-1", None), ({"sid": "s-1"}, "u-1", "s-1"), ({"sub": None, "sid": "s-1"}, None, "s-1")],
)
async def test_it_names_a_person_or_one_sign_in(
    played: PlayedProvider, claims: dict[str, Any], subject: str | None, sign_in: str | None
) -> None:
    ended = await ended_by(logout(played, iat=-20, **claims), played.provider)
    assert (ended.subject, ended.sign_in) == (subject, sign_in)
    assert ended.at == pytest.approx(time.time() - 20, abs=2)


@pytest.mark.parametrize(
    ("claims", "part"),
    [
        ({"aud": "another"}, "Audience"),
        ({"iss": "https://evil.test"}, "issuer"),
        ({"exp": -120}, "expired"),
        ({"iat": 600, "exp": 900}, "not yet valid"),
        ({"exp": None}, "exp"),
        ({"jti": None}, "jti"),
        ({"events": None}, "events"),
        ({"events": {"http://schemas.openid.net/event/other": {}}}, "events"),
        ({"events": {EVENT: "yes"}}, "events"),
        ({"events": EVENT}, "events"),
        ({"nonce": NONCE}, "nonce"),
        ({"sub": None}, "neither"),
        ({"algorithm": "none", "key": ""}, "signed with"),
        ({"algorithm": "HS256", "key": "secret" * 8}, "signed with"),
    ],
)
async def test_a_token_that_is_wrong_ends_nothing(played: PlayedProvider, claims: dict[str, Any], part: str) -> None:
    with pytest.raises(LogoutRefused, match=part):
        await ended_by(logout(played, **claims), played.provider)


async def test_neither_kind_of_token_passes_for_the_other(played: PlayedProvider) -> None:
    with pytest.raises(LogoutRefused):
        await ended_by(played.token(), played.provider)
    with pytest.raises(SignInRefused):
        await claims_of(logout(played), played.provider, NONCE, None)


async def test_while_the_provider_is_away_nothing_ends(played: PlayedProvider) -> None:
    played.is_away = True
    with pytest.raises(LogoutRefused, match="keys cannot be read"):
        await ended_by(logout(played), played.provider)
