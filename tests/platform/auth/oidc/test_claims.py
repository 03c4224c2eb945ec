"""What claims make of a person; by default, nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.platform.registry.house import House, opening

from multiflora_platform.auth.oidc.claims import ClaimRules
from multiflora_platform.auth.oidc.refusals import SignInRefused
from multiflora_platform.settings import Settings

NAMED = {"sub": "u-1", "iat": 0, "email": "a@example.com"}


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with opening(tmp_path / "data") as make:
        house = await make()
        for name in ("acme", "globex"):
            await house.keys.tenants.create("test", name)
        yield house


def rules(**settings: Any) -> ClaimRules:
    usual = {"oidc_issuer": "https://login.test", "oidc_client_id": "c", "oidc_tenant_claim": "teams"}
    return ClaimRules.of(Settings(**{**usual, "oidc_admin_value": ["ops"], **settings}))


@pytest.mark.parametrize(
    ("claims", "settings", "role", "tenant"),
    [
        ({"groups": ["staff", "ops"]}, {}, "admin", None),
        ({"groups": "ops"}, {}, "admin", None),
        ({"groups": ["ops"], "teams": "acme"}, {}, "admin", None),
        ({"teams": "acme"}, {}, "tenant", "acme"),
        ({"teams": ["hr", "acme"]}, {}, "tenant", "acme"),
        ({"realm_access": {"roles": ["ops"]}}, {"oidc_role_claim": "realm_access.roles"}, "admin", None),
        ({"https://x.test/roles": ["ops"]}, {"oidc_role_claim": "https://x.test/roles"}, "admin", None),
        ({"teams": ["new"]}, {"oidc_create_tenants": True}, "tenant", "new"),
    ],
)
async def test_roles(
    house: House, claims: dict[str, Any], settings: dict[str, Any], role: str, tenant: str | None
) -> None:
    person = await rules(**settings).person({**NAMED, **claims}, house.keys.tenants)
    assert (person.role, person.name, person.subject) == (role, "a@example.com", "u-1")
    found = None if tenant is None else (await house.keys.tenants.principal(tenant)).tenant_id
    assert person.tenant_id == found


@pytest.mark.parametrize(
    ("claims", "settings", "part"),
    [
        ({}, {}, "no role here"),
        ({"groups": ["Ops", "ops "]}, {}, "no role here"),
        ({"groups": {"ops": True}, "teams": {"acme": 1}}, {}, "no role here"),
        ({"groups": True, "teams": 7}, {}, "no role here"),
        ({"teams": "acme"}, {"oidc_tenant_claim": None}, "groups of the account"),
        ({"teams": ["acme", "globex"]}, {}, "several tenants of this server (acme, globex)"),
        ({"teams": ["new", "newer"]}, {"oidc_create_tenants": True}, "new, newer, which this server does not know"),
        ({"teams": "../x"}, {"oidc_create_tenants": True}, "does not know as a tenant"),
    ],
)
async def test_nothing_by_default(house: House, claims: dict[str, Any], settings: dict[str, Any], part: str) -> None:
    with pytest.raises(SignInRefused) as caught:
        await rules(**settings).person({**NAMED, **claims}, house.keys.tenants)
    assert part in str(caught.value)
    assert len(await house.keys.tenants.all()) == 2


@pytest.mark.parametrize(
    ("claims", "settings", "name"),
    [
        ({}, {}, "a@example.com"),
        ({"email_verified": False}, {}, "u-1"),
        ({"email": "a\n@b"}, {}, "u-1"),
        ({"email": "a" * 300}, {}, "u-1"),
        ({"name": "Ann"}, {"oidc_name_claim": "name"}, "Ann"),
    ],
)
async def test_names(house: House, claims: dict[str, Any], settings: dict[str, Any], name: str) -> None:
    told = {**NAMED, "groups": "ops", **claims}
    assert (await rules(**settings).person(told, house.keys.tenants)).name == name


async def test_a_disabled_tenant_lets_nobody_in(house: House) -> None:
    await house.keys.tenants.amend("test", "acme", disabled=True)
    with pytest.raises(SignInRefused, match="acme is disabled"):
        await rules().person({**NAMED, "teams": "acme"}, house.keys.tenants)


def test_what_is_not_there_is_asked_for_elsewhere() -> None:
    assert rules().lack({**NAMED, "groups": []})
    assert not rules().lack({**NAMED, "groups": [], "teams": []})
    assert not rules(oidc_admin_value=[]).lack({**NAMED, "teams": []})
