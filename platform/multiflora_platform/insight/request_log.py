"""The last requests, kept in memory, those that have ended packed; refusals, and how often."""

from __future__ import annotations

import secrets
import uuid
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import chain, takewhile
from typing import Any

import msgspec

from multiflora_platform.engine import Placement
from multiflora_platform.insight.logged_request import Changes, Course, LoggedRequest, PromptFacts
from multiflora_platform.insight.views.requests import RequestView

_MOST_REFUSALS = 200
_FACTS = tuple(field.name for field in fields(PromptFacts))
# What of a LoggedRequest is about its time as one that runs, or packed in another way.
_NOT_KEPT = frozenset({"facts", "changes", "on_end", "placement", "seen"})
_KEPT = tuple(field.name for field in fields(LoggedRequest) if field.name not in _NOT_KEPT)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def bare_id(id: str) -> str:
    """An answer's id without the letters before it."""
    return id.rpartition("-")[2].rpartition("_")[2]


class EndedRequest(msgspec.Struct, frozen=True, gc=False):
    """What lists are filtered by, and the rest as bytes: less memory, and no work for the garbage collector. Its fields
    are a LoggedRequest's of the same names."""

    id: str
    at: float
    tenant: str | None
    model: str
    answer: str
    http_id: str
    status: int | None
    miss_reason: str
    changed: int
    packed: bytes

    @classmethod
    def of(cls, entry: LoggedRequest) -> EndedRequest:
        facts, placement = entry.facts, entry.placement
        packed = _encode(
            (
                [getattr(facts, name) for name in _FACTS],
                [getattr(entry, name) for name in _KEPT],
                None if placement is None else msgspec.structs.astuple(placement),
            )
        )
        return cls(
            facts.id,
            facts.at,
            facts.tenant,
            facts.model,
            facts.answer,
            facts.http_id,
            entry.status,
            entry.miss_reason,
            entry.changed,
            packed,
        )

    def unpacked(self) -> LoggedRequest:
        facts, kept, placement = _decode(self.packed)
        values: dict[str, Any] = dict(zip(_KEPT, kept, strict=True))
        return LoggedRequest(
            PromptFacts(*facts), placement=None if placement is None else Placement(*placement), **values
        )

    def view(self) -> RequestView:
        return self.unpacked().view()


Entry = LoggedRequest | EndedRequest


class RequestLog:
    """At most `size` entries; the oldest are forgotten first. Refusals are at most 200, equal ones together, so that a
    flood of them does not push the prompts out."""

    def __init__(self, size: int = 50_000) -> None:
        self._size = size
        # As they came; a refusal as it came last.
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._running: dict[str, LoggedRequest] = {}
        # As they ended.
        self._ended: deque[EndedRequest] = deque(maxlen=size)
        self._refusals: OrderedDict[tuple[object, ...], LoggedRequest] = OrderedDict()
        self._changes = Changes()
        self._name = secrets.token_hex(4)

    @property
    def cursor(self) -> str:
        """Names the log and its last change; for `changes_since` later."""
        return f"{self._name}.{self._changes.last}"

    def changes_since(self, cursor: str | None) -> int | None:
        """The number of the change that a cursor names; None for a cursor of another log, or none."""
        name, _, number = (cursor or "").partition(".")
        return int(number) if name == self._name and number.isdecimal() and len(number) < 20 else None

    def course(self, tenant: str | None) -> Course:
        """Of a tenant's prompts and refusals; None: of all."""
        return self._changes.all if tenant is None else self._changes.of_tenants[tenant]

    def open(self, facts: PromptFacts) -> LoggedRequest:
        entry = self._running[facts.id] = LoggedRequest(facts, self._changes, self._end)
        return self._add(entry, running=1)

    def _end(self, entry: LoggedRequest) -> None:
        """Nothing where it was forgotten while it ran."""
        if self._running.pop(entry.id, None) is not None:
            ended = self._entries[entry.id] = EndedRequest.of(entry)
            self._ended.append(ended)

    def refuse(self, facts: PromptFacts, status: int, code: str) -> None:
        """A request that was no prompt yet. The entry keeps the first one's id, and has the last one's time."""
        kind = (facts.tenant, facts.key_id, facts.model, facts.path, status, code)
        entry = self._refusals.get(kind)
        if entry is None or entry.facts.id not in self._entries:
            id = facts.id if facts.id not in self._entries else uuid.uuid4().hex
            entry = self._add(LoggedRequest(replace(facts, id=id), self._changes, status=status, code=code, count=0))
            self._refusals[kind] = entry
            if len(self._refusals) > _MOST_REFUSALS:
                self._entries.pop(self._refusals.popitem(last=False)[1].facts.id, None)
        entry.facts = replace(facts, id=entry.facts.id)
        entry.ended_at, entry.count, entry.changed = facts.at, entry.count + 1, self._changes.next(facts.tenant)
        self._entries.move_to_end(entry.facts.id)
        self._refusals.move_to_end(kind)

    def _add(self, entry: LoggedRequest, running: int = 0) -> LoggedRequest:
        self._entries[entry.facts.id] = entry
        entry.changed = self._changes.next(entry.facts.tenant, running)
        if len(self._entries) > self._size:
            self._running.pop(self._entries.popitem(last=False)[0], None)
        return entry

    def find(self, id: str) -> LoggedRequest | None:
        found = self._entries.get(id)
        return found.unpacked() if isinstance(found, EndedRequest) else found

    def find_by_answer(self, id: str) -> LoggedRequest | None:
        """By an answer's id, with or without the letters before it (`chatcmpl-`, `resp_`): of an answer to several
        prompts, the first. Or by what its X-Request-ID said: of several, the newest."""
        answer = bare_id(id)
        found = (one.id for one in self._entries.values() if one.answer == answer) if answer else iter(())
        asked = (one.id for one in reversed(self._entries.values()) if one.http_id == id) if id else iter(())
        return self.find(next(chain(found, asked), ""))

    def newest(self, before: str | None = None, since: int | None = None) -> Iterator[Entry]:
        """Newest first; those older than the prompt `before`, or all when it is forgotten. since: a change's number;
        only what changed after it, and what runs."""
        entries = iter(reversed(self._entries.values()) if since is None else self._changed(since))
        if before is not None and before in self._entries:
            for entry in entries:
                if entry.id == before:
                    break
        yield from entries

    def _changed(self, since: int) -> list[Entry]:
        ended = takewhile(lambda one: one.changed > since, reversed(self._ended))
        refused = (one for one in self._refusals.values() if one.changed > since)
        entries: Iterator[Entry] = chain(self._running.values(), refused, ended)
        return sorted((one for one in entries if one.id in self._entries), key=lambda one: one.at, reverse=True)
