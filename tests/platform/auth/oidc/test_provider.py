"""The provider's documents: what is not its own or not safe is refused, and its silence costs nobody a queue."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from tests.platform.auth.oidc.conftest import ISSUER, PlayedProvider

from multiflora_platform.auth.oidc import provider as provider_module
from multiflora_platform.auth.oidc.refusals import SignInRefused


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "https://evil.test"},
        {"issuer": ISSUER + "/"},
        {"token_endpoint": "http://login.test/token"},
        {"end_session_endpoint": "javascript:alert(1)"},
        {"jwks_uri": None},
    ],
)
async def test_a_document_that_cannot_be_used_is_refused(played: PlayedProvider, change: dict[str, Any]) -> None:
    played.metadata |= change
    with pytest.raises(SignInRefused, match="cannot use"):
        await played.provider.metadata()


async def test_a_provider_that_is_away_is_not_asked_for_each_person(
    played: PlayedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(provider_module.time, "monotonic", lambda: clock[0])
    played.is_away = True
    for _ in range(5):
        with pytest.raises(SignInRefused, match="does not answer"):
            await played.provider.metadata()
    assert len(played.read) == 1
    played.is_away = False
    clock[0] += 6
    assert (await played.provider.metadata()).issuer == ISSUER
    played.is_away = True
    clock[0] += 3601
    assert (await played.provider.metadata()).issuer == ISSUER, "what was known of it serves on"


@pytest.mark.parametrize(
    ("status", "body", "part"),
    [
        (400, {"error": "invalid_grant"}, "used already"),
        (401, {"error": "invalid_client"}, "does not accept this server"),
        (400, {"error": "temporarily_unavailable"}, "refused (temporarily_unavailable)"),
        (400, {"error": "<script>"}, "provider refused. Try"),
        (502, {}, "does not answer"),
        (200, {"access_token": "x"}, "cannot use"),
    ],
)
async def test_a_code_that_gives_nothing_says_why(
    played: PlayedProvider, status: int, body: dict[str, Any], part: str, caplog: pytest.LogCaptureFixture
) -> None:
    played.answers["/token"] = httpx.Response(status, json=body)
    with pytest.raises(SignInRefused) as caught:
        await played.provider.exchange("the-code", "the-verifier", "https://here.test/ui/oidc/callback")
    assert part in str(caught.value)
    told = str(caught.value) + caplog.text
    assert not [secret for secret in ("the-code", "the-verifier", "secret=") if secret in told]


async def test_further_claims_are_told_or_not(played: PlayedProvider) -> None:
    played.answers["/me"] = httpx.Response(200, json={"sub": "u-1", "groups": ["a"]})
    assert (await played.provider.userinfo("token"))["groups"] == ["a"]
    played.answers["/me"] = httpx.Response(200, text="x.y.z", headers={"content-type": "application/jwt"})
    assert await played.provider.userinfo("token") == {}
    assert await played.provider.userinfo("") == {}
