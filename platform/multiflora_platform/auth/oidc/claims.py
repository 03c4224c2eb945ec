"""What a person's claims make of them here: an administrator, a tenant's, or nothing. Knows neither tokens nor HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from multiflora_platform.auth.account_problems import TenantExists, TenantNotFound
from multiflora_platform.auth.oidc.refusals import no_role, several_tenants, tenant_disabled, unknown_tenant
from multiflora_platform.auth.principals import Person, Principal, Role
from multiflora_platform.auth.tenants import Tenants
from multiflora_platform.settings import Settings
from multiflora_platform.web.problems import InvalidRequest

Claims = Mapping[str, Any]
_LONGEST_NAME = 120
_LONGEST_IDENTIFIER = 255
_SHOWN = 5


@dataclass(frozen=True)
class ClaimRules:
    """Of the settings whose names begin with `oidc_`. A claim is named by itself, or by a path: `a.b`."""

    role_claim: str
    admin_values: frozenset[str]
    tenant_claim: str | None
    create_tenants: bool
    name_claim: str

    @classmethod
    def of(cls, settings: Settings) -> ClaimRules:
        return cls(
            settings.oidc_role_claim,
            frozenset(settings.oidc_admin_value),
            settings.oidc_tenant_claim,
            settings.oidc_create_tenants,
            settings.oidc_name_claim,
        )

    def lack(self, claims: Claims) -> bool:
        """Whether one of the claims that are looked at is not there, and may stand elsewhere."""
        wanted = (self.role_claim if self.admin_values else None, self.tenant_claim, self.name_claim)
        return any(name is not None and _claim(claims, name) is None for name in wanted)

    async def person(self, claims: Claims, tenants: Tenants) -> Person:
        """By default nobody is let in. Raises SignInRefused."""
        name = self._name(claims)
        if self.admin_values.intersection(_values(claims, self.role_claim)):
            return _vouched_for("admin", None, name, claims)
        tenant = await self._tenant(claims, name, tenants)
        if tenant.policy.disabled:
            raise tenant_disabled(str(tenant.tenant))
        return _vouched_for("tenant", tenant.tenant_id, name, claims)

    def _name(self, claims: Claims) -> str:
        """An address that the provider has not verified could be anybody's."""
        found = _claim(claims, self.name_claim)
        is_sound = isinstance(found, str) and found.isprintable() and 0 < len(found) <= _LONGEST_NAME
        if is_sound and (self.name_claim != "email" or claims.get("email_verified", True) is True):
            return str(found)
        return "".join(letter for letter in str(claims["sub"]) if letter.isprintable())[:_LONGEST_NAME]

    async def _tenant(self, claims: Claims, name: str, tenants: Tenants) -> Principal:
        named = [] if self.tenant_claim is None else _values(claims, self.tenant_claim)
        if not named:
            looked_at = [self.role_claim] if self.admin_values else []
            raise no_role(name, " or ".join([*looked_at, *filter(None, [self.tenant_claim])]))
        known = [tenant for one in named if (tenant := await _known(tenants, one)) is not None]
        if len(known) > 1:
            raise several_tenants(name, ", ".join(str(one.tenant) for one in known[:_SHOWN]))
        if known:
            return known[0]
        if self.create_tenants and len(named) == 1 and (made := await _made(tenants, named[0], name)) is not None:
            return made
        raise unknown_tenant(name, ", ".join(one[:64] for one in named[:_SHOWN]))


def identifier(claims: Claims, name: str) -> str | None:
    """A text by which the provider names something, as far as it is kept; None: the token has none."""
    found = claims.get(name)
    return found[:_LONGEST_IDENTIFIER] if isinstance(found, str) and found else None


def _vouched_for(role: Role, tenant_id: int | None, name: str, claims: Claims) -> Person:
    subject = str(claims["sub"])[:_LONGEST_IDENTIFIER]
    return Person(role, tenant_id, name, subject, identifier(claims, "sid"), int(claims["iat"]))


def _claim(claims: Claims, name: str) -> Any:
    """None: there is none."""
    if name in claims:  # names may be addresses, with dots
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _values(claims: Claims, name: str) -> list[str]:
    found = _claim(claims, name)
    values = found if isinstance(found, list) else [found]
    return list(dict.fromkeys(value for value in values if isinstance(value, str) and value))


async def _known(tenants: Tenants, name: str) -> Principal | None:
    try:
        return await tenants.principal(name)
    except TenantNotFound:
        return None


async def _made(tenants: Tenants, tenant: str, name: str) -> Principal | None:
    """None: a tenant cannot have that name."""
    try:
        await tenants.create(f"system/oidc:{name}", tenant)
    except InvalidRequest:
        return None
    except TenantExists:
        pass  # another server has just made it
    return await tenants.principal(tenant)
