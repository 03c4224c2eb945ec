"""Who a request comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["admin", "tenant"]


@dataclass(frozen=True)
class Principal:
    """tenant: the tenant's name, for role "tenant". key_id: the key's public id, never the key."""

    role: Role
    tenant: str | None
    key_id: str
    tenant_id: int | None = None

    @property
    def actor(self) -> str:
        """As the audit names it."""
        return f"{self.tenant or self.role}/{self.key_id}"

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"
