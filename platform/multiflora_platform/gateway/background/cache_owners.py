"""For whom prefixes are computed in the background: tenants and admins, as their own requests would have it."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict

from multiflora_platform.auth.keys import KeyStore
from multiflora_platform.auth.principals import Principal
from multiflora_platform.gateway.background.warming import cache_principal

# How long a tenant's policy is taken to be what it was.
_POLICY_SECONDS = 2.0


class CacheOwners:
    """Asks for a tenant's policy anew every two seconds, once for all who want it."""

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys
        # With the time of the look, by tenant.
        self._known: dict[str | None, tuple[float, Principal]] = {}
        # Held while the database is asked, by tenant.
        self._asking: defaultdict[str | None, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def principal(self, tenant: str | None) -> Principal:
        """tenant: None for admins. Raises TenantNotFound."""
        async with self._asking[tenant]:
            looked_at, principal = self._known.get(tenant, (0.0, None))
            now = time.monotonic()
            if principal is None or now - looked_at > _POLICY_SECONDS:
                principal = await cache_principal(self._keys, tenant)
                self._known[tenant] = now, principal
            return principal
