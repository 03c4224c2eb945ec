"""The party that a request comes from: what its key allows. Every request carries one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from multiflora_platform.auth.policies import UNLIMITED, Policy

Role = Literal["admin", "tenant"]

# Of a person's key_id; no key's begins so.
PERSON_PREFIX = "oidc:"


class Person(msgspec.Struct, frozen=True):
    """One whom a sign-in provider vouches for, and what its claims make of them."""

    role: Role
    # The tenant's row; None for admins.
    tenant_id: int | None
    # As the audit names them, behind `oidc:`.
    name: str
    # As the provider knows them, for ever.
    subject: str
    # The sign-in at the provider, as that names it; None: it names none.
    sign_in: str | None = None
    # When the provider issued the token that let them in; Unix seconds.
    issued_at: int = 0


class EndedSignIn(msgspec.Struct, frozen=True):
    """What a provider says is over: one sign-in, or, without that, all of a person."""

    subject: str | None
    sign_in: str | None
    # When the provider said so; Unix seconds.
    at: int


@dataclass(frozen=True)
class Principal:
    """Made by the directory from a key and its tenant, or for a person, and by the server for its own work."""

    role: Role
    # The tenant's name; None for admins.
    tenant: str | None
    # The key's public id, never the key; of a person `oidc:` and the name.
    key_id: str
    # The tenant's row; cache salts are made of it, because names can be given again.
    tenant_id: int | None = None
    # What the key is narrowed to; None: everything that its role may.
    scopes: frozenset[str] | None = None
    # The tenant's; admins have no limits.
    policy: Policy = UNLIMITED

    @property
    def actor(self) -> str:
        """As the audit names it."""
        return f"{self.tenant or self.role}/{self.key_id}"

    @property
    def person(self) -> str | None:
        """Their name; None of a key."""
        return self.key_id.removeprefix(PERSON_PREFIX) if self.is_person else None

    @property
    def is_person(self) -> bool:
        return self.key_id.startswith(PERSON_PREFIX)

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"

    def may_use(self, adapter: str, owner: str | None = None) -> bool:
        """Whether this adapter (or the base model, by its name) exists for it. owner: the tenant that owns it."""
        return self.is_admin or (owner is not None and owner == self.tenant) or self.policy.allows(adapter)
