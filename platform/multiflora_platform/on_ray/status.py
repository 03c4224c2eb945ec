"""What runs on a cluster of Ray's, as Ray and as our own table of engines have it. Imports no Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from multiflora_platform.fleet.hosts.replica_table import Lease, leases
from multiflora_platform.server.beginnings import open_database

_FAILED = frozenset({"DEPLOY_FAILED", "UNHEALTHY"})


class RayNode(msgspec.Struct, frozen=True):
    address: str
    state: str
    # As Ray counts them, by its names.
    resources: dict[str, float]


class RayGroup(msgspec.Struct, frozen=True):
    """An application. replicas: how many are in which state. message: why it is not well, as Serve says it."""

    name: str
    state: str
    replicas: dict[str, int]
    message: str

    @property
    def has_failed(self) -> bool:
        """For good: it is not tried once more, after another deployment has failed."""
        return self.state in _FAILED and "STARTING" not in self.replicas


def engines_of(database_urls: Sequence[str], groups: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the table for these groups. Raises ConfigurationError where a database cannot be used."""
    found = [lease for url in database_urls for lease in asyncio.run(_leases(url))]
    return [_row(lease) for lease in found if lease.listing.group in groups]


async def _leases(url: str) -> Sequence[Lease]:
    database = await open_database(url)
    try:
        return await leases(database)
    finally:
        await database.close()


def _row(lease: Lease) -> dict[str, Any]:
    one = lease.listing
    state = one.state if lease.seconds > 0 else "gone"
    return {"group": one.group, "engine": one.id, "host": one.host, "state": state, "lease": round(lease.seconds, 1)}
