"""Who a request comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from multiflora_platform.auth.policies import UNLIMITED, Policy

Role = Literal["admin", "tenant"]


@dataclass(frozen=True)
class Principal:
    """tenant: the tenant's name, for role "tenant". key_id: the key's public id, never the key.

    scopes: what the key is narrowed to; None is everything that its role may. policy: the tenant's; admins have none.
    """

    role: Role
    tenant: str | None
    key_id: str
    tenant_id: int | None = None
    scopes: frozenset[str] | None = None
    policy: Policy = UNLIMITED

    @property
    def actor(self) -> str:
        """As the audit names it."""
        return f"{self.tenant or self.role}/{self.key_id}"

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"

    def may_use(self, adapter: str, owner: str | None = None) -> bool:
        """Whether this adapter (or the base model, by its name) exists for it. owner: the tenant that owns it."""
        return self.is_admin or (owner is not None and owner == self.tenant) or self.policy.allows(adapter)
