"""Browser sessions: a signed cookie that stands for a key, or for a person whom a sign-in provider vouches for.

The cookie holds no key. It is checked against the directory each time, so that revoking the key, or disabling the
tenant, ends its sessions. Every server on the database knows which were closed. Does not know requests.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from sqlalchemy import delete, select

from multiflora_platform.auth.directory import Directory
from multiflora_platform.auth.principals import Person, Principal
from multiflora_platform.auth.secret import Secret
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.tables import ClosedSessionRow, EventRow

LIFETIME_SECONDS = 12 * 3600


@dataclass(frozen=True)
class Session:
    """What a good cookie stands for."""

    id: str
    principal: Principal
    # What a change must bring beside the cookie.
    csrf: str
    # Unix seconds.
    expires_at: int


class Sessions:
    """Opens, finds and closes sessions. Keeps none: all that makes one is in the cookie, signed. `load` it first."""

    def __init__(self, database: Database, secret: Secret, directory: Directory, provider: str | None = None) -> None:
        """provider: whose people may have sessions, issuer and client; with another one their sessions end."""
        self._database = database
        self._secret = secret
        self._directory = directory
        self._provider = provider
        # Session ids that were closed before their time, with their end in Unix seconds.
        self._closed: dict[str, int] = {}
        # The cookie's name, another one for each installation, because cookies do not know ports.
        self.cookie = f"multiflora_{secret.derive('session-cookie', 'name')[:8]}"

    @property
    def has_people(self) -> bool:
        """Whether anybody can have a session without a key."""
        return self._provider is not None

    async def load(self) -> None:
        async with self._database.read() as session:
            rows = await session.scalars(select(ClosedSessionRow))
            self._closed = {row.id: row.ends_at for row in rows}

    async def follow(self, events: Sequence[EventRow]) -> None:
        """Another process's."""
        for event in events:
            if event.type == "session.closed":
                self._forget(event.payload["session"], event.payload["ends_at"])

    def open(self, digest: str) -> str:
        """The cookie's value. digest: the HMAC of a key that the directory knows."""
        return self._signed("session", digest, int(time.time()) + LIFETIME_SECONDS)

    async def open_for(self, person: Person, ends_at: int) -> str:
        """The cookie's value. Nothing else tells who was let in as what, so the audit does. Raises Unavailable."""
        value = self._signed(self._purpose, _packed(person), ends_at)
        session = self.find(value)
        assert session is not None, "the provider is this one, and the tenant is there"

        async def work(change: Change) -> None:
            change.record(
                "session.opened",
                session.principal.key_id,
                role=person.role,
                tenant=session.principal.tenant,
                subject=person.subject,
                ends_at=ends_at,
            )

        await self._database.write(session.principal.actor, work)
        return value

    def find(self, value: str) -> Session | None:
        """None: not one of ours, over, closed, or its key or tenant is gone."""
        body, _, signature = value.rpartition(".")
        given = signature.encode("ascii", "replace").decode()
        is_key = hmac.compare_digest(self._secret.derive("session", body), given)
        is_person = self.has_people and hmac.compare_digest(self._secret.derive(self._purpose, body), given)
        if not (is_key or is_person):
            return None
        session_id, who, ends_at = body.split(".")
        if int(ends_at) <= time.time() or session_id in self._closed:
            return None
        principal = self._directory.find(who) if is_key else self._directory.of_person(_unpacked(who))
        if principal is None:
            return None
        return Session(session_id, principal, self._secret.derive("csrf", session_id), int(ends_at))

    async def close(self, session: Session) -> None:
        """Not found any more by any server, even if the cookie comes back. Raises Unavailable."""

        async def work(change: Change) -> None:
            over = delete(ClosedSessionRow).where(ClosedSessionRow.ends_at < change.now.timestamp())
            await change.session.execute(over)
            await change.session.merge(ClosedSessionRow(id=session.id, ends_at=session.expires_at))
            change.record("session.closed", session.principal.key_id, session=session.id, ends_at=session.expires_at)

        await self._database.write(session.principal.actor, work)
        self._forget(session.id, session.expires_at)

    @property
    def _purpose(self) -> str:
        """Of signatures of people's sessions; no key's digest can pass for a person."""
        return f"session of {self._provider}"

    def _signed(self, purpose: str, who: str, ends_at: int) -> str:
        body = f"{secrets.token_hex(16)}.{who}.{ends_at}"
        return f"{body}.{self._secret.derive(purpose, body)}"

    def _forget(self, session_id: str, ends_at: int) -> None:
        now = time.time()
        self._closed = {known: end for known, end in self._closed.items() if end > now} | {session_id: ends_at}


def _packed(person: Person) -> str:
    return msgspec.json.encode(person).hex()


def _unpacked(text: str) -> Person:
    return msgspec.json.decode(bytes.fromhex(text), type=Person)
