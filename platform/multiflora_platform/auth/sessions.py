"""Browser sessions: a signed cookie that stands for a key, or for a person whom a sign-in provider vouches for.

The cookie holds no key. It is checked against the directory each time, so that revoking the key, or disabling the
tenant, ends its sessions. Every server on the database knows which were closed, by a browser or by the provider. Does
not know requests.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
from sqlalchemy import delete, select

from multiflora_platform.auth.directory import Directory
from multiflora_platform.auth.principals import PERSON_PREFIX, EndedSignIn, Person, Principal
from multiflora_platform.auth.secret import Secret
from multiflora_platform.settings import LONGEST_SESSION_SECONDS
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.tables import ClosedSessionRow, EventRow
from multiflora_platform.storage.upserts import largest, upsert

LIFETIME_SECONDS = 12 * 3600
_PROVIDER = "system/oidc"


@dataclass(frozen=True)
class Session:
    """What a good cookie stands for."""

    id: str
    principal: Principal
    # What a change must bring beside the cookie.
    csrf: str
    # Unix seconds.
    expires_at: int


class SignInOver(Exception):
    """The provider ended it before its session was opened."""


class _Closed(NamedTuple):
    """Sessions that were closed before their time. Unix seconds."""

    # None of them lasts longer.
    ends_at: int
    # The provider issued their tokens until then; a later one's session is not among them.
    issued_until: int

    def joined(self, other: _Closed | None) -> _Closed:
        return self if other is None else _Closed(*map(max, self, other))


class Sessions:
    """Opens, finds and closes sessions. Keeps none: all that makes one is in the cookie, signed. `load` it first."""

    def __init__(self, database: Database, secret: Secret, directory: Directory, provider: str | None = None) -> None:
        """provider: whose people may have sessions, issuer and client; with another one their sessions end."""
        self._database = database
        self._secret = secret
        self._directory = directory
        self._provider = provider
        # By a session's id, or by one that all of a sign-in or of a person have in common.
        self._closed: dict[str, _Closed] = {}
        # The cookie's name, another one for each installation, because cookies do not know ports.
        self.cookie = f"multiflora_{secret.derive('session-cookie', 'name')[:8]}"

    @property
    def has_people(self) -> bool:
        """Whether anybody can have a session without a key."""
        return self._provider is not None

    async def load(self) -> None:
        async with self._database.read() as session:
            rows = await session.scalars(select(ClosedSessionRow))
            self._closed = {row.id: _Closed(row.ends_at, row.issued_until or row.ends_at) for row in rows}

    async def follow(self, events: Sequence[EventRow]) -> None:
        """Another process's."""
        for event in events:
            if event.type == "session.closed":
                payload = event.payload
                # Servers of an older release tell no second moment.
                closed = _Closed(payload["ends_at"], payload.get("issued_until", payload["ends_at"]))
                self._forget(payload["session"], closed)

    def open(self, digest: str) -> str:
        """The cookie's value. digest: the HMAC of a key that the directory knows."""
        return self._signed("session", digest, int(time.time()) + LIFETIME_SECONDS)

    async def open_for(self, person: Person, ends_at: int) -> str:
        """The cookie's value. Nothing else tells who was let in as what, so the audit does. Raises SignInOver,
        Unavailable."""
        if self._is_over(person):
            raise SignInOver
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
        person = None if is_key else _unpacked(who)
        if int(ends_at) <= time.time() or session_id in self._closed or (person and self._is_over(person)):
            return None
        principal = self._directory.find(who) if person is None else self._directory.of_person(person)
        if principal is None:
            return None
        return Session(session_id, principal, self._secret.derive("csrf", session_id), int(ends_at))

    async def close(self, session: Session) -> None:
        """Not found any more by any server, even if the cookie comes back. Raises Unavailable."""
        closed = _Closed(session.expires_at, session.expires_at)
        await self._close(session.principal.actor, session.principal.key_id, session.id, closed)

    async def end(self, ended: EndedSignIn) -> None:
        """The sessions that the provider says are over, as `close` does. Raises Unavailable."""
        last = ended.at + LONGEST_SESSION_SECONDS
        if ended.sign_in is not None:
            closed_id, closed = self._sign_in_id(ended.sign_in), _Closed(last, last)
        else:
            closed_id, closed = self._subject_id(str(ended.subject)), _Closed(last, ended.at)
        target = f"{PERSON_PREFIX}{ended.subject or ended.sign_in}"
        await self._close(_PROVIDER, target, closed_id, closed)

    async def _close(self, actor: str, target: str, closed_id: str, closed: _Closed) -> None:
        async def work(change: Change) -> None:
            over = delete(ClosedSessionRow).where(ClosedSessionRow.ends_at < change.now.timestamp())
            await change.session.execute(over)
            await upsert(change.session, ClosedSessionRow, {"id": closed_id}, closed._asdict(), largest)
            change.record("session.closed", target, session=closed_id, **closed._asdict())

        await self._database.write(actor, work)
        self._forget(closed_id, closed)

    def _is_over(self, person: Person) -> bool:
        """Whether the provider has ended the sign-in, or all of the person's until then."""
        ids = [self._subject_id(person.subject)]
        if person.sign_in is not None:
            ids.append(self._sign_in_id(person.sign_in))
        ends = map(self._closed.get, ids)
        return any(end is not None and person.issued_at <= end.issued_until for end in ends)

    def _sign_in_id(self, sign_in: str) -> str:
        return self._secret.derive(f"sign-in at {self._provider}", sign_in)[:32]

    def _subject_id(self, subject: str) -> str:
        return self._secret.derive(f"person of {self._provider}", subject)[:32]

    @property
    def _purpose(self) -> str:
        """Of signatures of people's sessions; no key's digest can pass for a person."""
        return f"session of {self._provider}"

    def _signed(self, purpose: str, who: str, ends_at: int) -> str:
        body = f"{secrets.token_hex(16)}.{who}.{ends_at}"
        return f"{body}.{self._secret.derive(purpose, body)}"

    def _forget(self, closed_id: str, closed: _Closed) -> None:
        now = time.time()
        kept = {known: end for known, end in self._closed.items() if end.ends_at > now}
        self._closed = kept | {closed_id: closed.joined(kept.get(closed_id))}


def _packed(person: Person) -> str:
    return msgspec.json.encode(person).hex()


def _unpacked(text: str) -> Person:
    return msgspec.json.decode(bytes.fromhex(text), type=Person)
