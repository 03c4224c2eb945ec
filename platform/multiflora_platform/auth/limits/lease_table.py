"""What all servers on one PostgreSQL database have taken of tenants' limits: one row a tenant, one statement a turn.

Semantics: what a row has left and what servers hold of it are together at most a minute's allowance, and grow by no
more than its refill; the seats that servers hold are together at most the limit. A turn gives back all that a server
holds of the rates and takes anew, in one UPDATE, whose row lock puts the servers' turns in an order. What a server
holds lapses LEASE_SECONDS after its last turn, by the database's clock.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from multiflora_platform.auth.limits.limits import Standing
from multiflora_platform.auth.policies import Policy

if TYPE_CHECKING:
    from multiflora_platform.storage.direct_connection import DirectConnection

LEASE_SECONDS = 10.0


@dataclass(frozen=True)
class LeaseTurn:
    """What a server says of one tenant, and asks for. None for a limit that there is not."""

    tenant: int
    server: str
    requests_per_minute: int | None
    tokens_per_minute: int | None
    most_seats: int | None
    # Of requests that run here.
    seats: int
    # Taken earlier and not used. Tokens below zero: used beyond what was taken.
    requests: int
    tokens: float
    # Asked for, and given as far as there are any.
    more_seats: int
    more_requests: int
    more_tokens: float
    # Of these, what is used as soon as it is there: it is not held, and keeps no bucket from refilling.
    waiting_requests: int
    waiting_tokens: int


@dataclass(frozen=True)
class Granted:
    """What the server has from now on. seats: beside those that it said."""

    seats: int
    requests: int
    tokens: float
    # Left in the row for all; None without that limit.
    requests_left: float | None
    tokens_left: float | None
    # Seats of all servers, these included.
    all_seats: int


class LeaseTable:
    """connection: to the database, which has the row of a tenant once the tenant has had a turn."""

    def __init__(self, connection: DirectConnection) -> None:
        self._connection = connection

    async def take(self, turn: LeaseTurn) -> Granted:
        """Raises Unavailable; then the turn may have been taken or not, and the next one makes it good."""
        values = {**asdict(turn), "lease": LEASE_SECONDS}
        while not (rows := await self._connection.rows(_TAKE, values)):
            await self._connection.rows(_FIRST, values)
        return Granted(*rows[0])

    async def standing(self, tenant: int, policy: Policy) -> Standing:
        """What servers hold and have not used is left, too. Raises Unavailable."""
        rates = {
            "tenant": tenant,
            "requests_per_minute": policy.requests_per_minute,
            "tokens_per_minute": policy.tokens_per_minute,
        }
        rows = await self._connection.rows(_LOOK, rates)
        requests, tokens, seats = rows[0] if rows else (policy.requests_per_minute, policy.tokens_per_minute, 0)
        return Standing(requests, tokens, None if policy.max_concurrent_requests is None else seats, is_shared=True)


# The tenant's first turn, or the first since a crash of the database emptied its unlogged tables: buckets are full.
_FIRST = "INSERT INTO tenant_leases (tenant_id, at, held) VALUES (%(tenant)s, 0, '{}') ON CONFLICT DO NOTHING"

# Step by step: the time; what the other servers hold; what is left, refilled and with what this server gives back;
# what it gets. What is left is NULL where there is no limit, and full when there is one again.
_TAKE = """
UPDATE tenant_leases AS account
SET (requests, tokens, at, held) = (
    SELECT rest.requests - got.requests, rest.tokens - got.tokens, clock.now,
           others.held || jsonb_build_object(%(server)s::text, jsonb_build_object(
               'seats', %(seats)s::int + got.seats, 'got_requests', got.requests, 'got_tokens', got.tokens,
               'requests', greatest(0, got.requests - %(waiting_requests)s::int),
               'tokens', greatest(0, got.tokens - %(waiting_tokens)s::int),
               'until', clock.now + %(lease)s::float8))
    FROM (SELECT greatest(account.at, extract(epoch FROM clock_timestamp())::float8) AS now) AS clock,
    LATERAL (
        SELECT coalesce(sum((value->>'seats')::int), 0)::int AS seats,
               coalesce(sum((value->>'requests')::float8), 0) AS requests,
               coalesce(sum((value->>'tokens')::float8), 0) AS tokens,
               coalesce(jsonb_object_agg(key, value), '{}') AS held
        FROM jsonb_each(account.held)
        WHERE key <> %(server)s::text AND (value->>'until')::float8 > clock.now
    ) AS others,
    LATERAL (
        SELECT least(rpm - others.requests,
                     %(requests)s::float8 + coalesce(account.requests + seconds * rpm / 60, rpm)) AS requests,
               least(tpm - others.tokens,
                     %(tokens)s::float8 + coalesce(account.tokens + seconds * tpm / 60, tpm)) AS tokens
        FROM (SELECT clock.now - account.at AS seconds,
                     %(requests_per_minute)s::float8 AS rpm, %(tokens_per_minute)s::float8 AS tpm) AS refill
    ) AS rest,
    LATERAL (
        SELECT greatest(0, least(%(most_seats)s::int - others.seats - %(seats)s::int, %(more_seats)s::int)) AS seats,
               greatest(0, least(floor(rest.requests), %(more_requests)s::int)) AS requests,
               greatest(0, least(rest.tokens, %(more_tokens)s::float8)) AS tokens
    ) AS got
)
WHERE tenant_id = %(tenant)s
RETURNING (held->%(server)s->>'seats')::int - %(seats)s::int, (held->%(server)s->>'got_requests')::int,
          (held->%(server)s->>'got_tokens')::float8, requests, tokens,
          (SELECT sum((value->>'seats')::int)::int FROM jsonb_each(held))
"""

_LOOK = """
SELECT least(rpm, coalesce(account.requests + seconds * rpm / 60, rpm) + servers.requests),
       least(tpm, coalesce(account.tokens + seconds * tpm / 60, tpm) + servers.tokens), servers.seats
FROM tenant_leases AS account,
LATERAL (
    SELECT extract(epoch FROM clock_timestamp())::float8 AS now,
           %(requests_per_minute)s::float8 AS rpm, %(tokens_per_minute)s::float8 AS tpm
) AS asked,
LATERAL (SELECT greatest(0, asked.now - account.at) AS seconds) AS refill,
LATERAL (
    SELECT coalesce(sum((value->>'seats')::int), 0)::int AS seats,
           coalesce(sum((value->>'requests')::float8), 0) AS requests,
           coalesce(sum((value->>'tokens')::float8), 0) AS tokens
    FROM jsonb_each(account.held) WHERE (value->>'until')::float8 > asked.now
) AS servers
WHERE tenant_id = %(tenant)s
"""
