"""What tenants used, by day, adapter and key: counted in memory, written every few seconds, read with filters.

After a crash the counts are exact up to the last write, FLUSH_SECONDS before it at most; an orderly end loses none.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, date, datetime
from typing import Any, Literal, NamedTuple

import msgspec
from sqlalchemy import func, select, tuple_

from multiflora_platform.auth import account_answers
from multiflora_platform.auth.tallies.peaks import Peaks
from multiflora_platform.auth.tallies.refused_requests import RefusedRequests
from multiflora_platform.prices import Prices
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.tables import DailyUsageRow, KeyRow, KeyUsageRow
from multiflora_platform.storage.upserts import added, upsert
from multiflora_platform.web.pagination import decode_token, encode_token
from multiflora_platform.web.problems import InvalidRequest

_log = logging.getLogger(__name__)
FLUSH_SECONDS = 5.0
_SECONDS_A_DAY = 86400
Group = Literal["day", "tenant", "adapter", "key"]
GROUPS: tuple[Group, ...] = ("day", "tenant", "adapter")
"""What is kept apart where nothing is said."""
_ALL_GROUPS: tuple[Group, ...] = (*GROUPS, "key")


@dataclass
class Counts:
    """What is added up; the meter adds to them with each token and at each request's end."""

    requests: int = 0
    prompt_tokens: int = 0
    # Part of prompt_tokens.
    cached_tokens: int = 0
    # What prompts added to the prefix cache.
    cache_write_tokens: int = 0
    completion_tokens: int = 0
    # Microseconds: the requests' part of the engine's steps.
    device_us: int = 0
    # Microseconds of the device, estimated when the prompt began: what cached_tokens would have taken, and what tokens
    # took that had been cached and were evicted.
    saved_us: int = 0
    again_us: int = 0
    # Tokens that contexts and marks held, times seconds.
    stored_token_seconds: int = 0

    def add(self, other: Counts) -> None:
        for field in COUNTED:
            setattr(self, field, getattr(self, field) + getattr(other, field))


COUNTED = tuple(field.name for field in fields(Counts))
_Row = tuple[str, str, str, str]
"""Day, tenant, adapter, key."""


@dataclass(frozen=True)
class UsageFilter:
    """What a request asks for; None in a filter: all of them."""

    # A name, or "" for admins.
    tenant: str | None = None
    # A name, or "" for the base model.
    adapter: str | None = None
    # A key's id, or "" for what came with none.
    key: str | None = None
    # Days of UTC, both included.
    since: date | None = None
    until: date | None = None
    # The columns to keep apart.
    group_by: Sequence[Group] = GROUPS

    @property
    def table(self) -> type[DailyUsageRow | KeyUsageRow]:
        return DailyUsageRow if self.key is None and "key" not in self.group_by else KeyUsageRow


class AdapterRequests(NamedTuple):
    """What one adapter was asked since some day. by_day: of days (UTC) that had requests, at least one."""

    by_day: dict[str, int]

    @property
    def requests(self) -> int:
        return sum(self.by_day.values())

    @property
    def last_day(self) -> str:
        return max(self.by_day)


class UsageLedger:
    """`start` it, add to its rows, `close` it."""

    def __init__(self, database: Database, prices: Prices | None = None) -> None:
        """prices: None where nothing is told in money."""
        self._database = database
        self._prices = prices
        self.peaks = Peaks(database)
        self.refusals = RefusedRequests(database)
        """Both are written with the usage."""
        # Counted but not written; and what is being written.
        self._pending: dict[_Row, Counts] = {}
        self._writing: dict[_Row, Counts] = {}
        self.writes = 0
        """So many writes have moved counts from here to the database."""
        self.after_write: list[Callable[[Collection[str]], Awaitable[None]]] = []
        """Told of the tenants whose counts were written."""
        # Today, and the Unix second in which it ends: a date is not made anew for each token.
        self._day, self._day_ends = "", 0.0
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def row(self, tenant: str | None, adapter: str | None, key: str = "") -> Counts:
        """What is not written yet of today, to add to at once: it is asked for with each token, and never kept. key: a
        principal's id of it."""
        row = (self._today(), tenant or "", adapter[:255] if adapter else "", key[:255])
        counts = self._pending.get(row)
        if counts is None:
            counts = self._pending[row] = Counts()
        return counts

    async def flush(self) -> set[str]:
        """Everything that was counted until now is in the database afterwards. Returns the tenants that had counts.
        Raises Unavailable."""
        await self.peaks.flush()
        await self.refusals.flush()
        async with self._lock:
            taken = self._writing = self._pending
            self._pending = {}
            if not taken:
                return set()
            try:
                await self._database.write("system", lambda change: _write(change, taken))
                self.writes += 1
            except BaseException:
                for row, counts in taken.items():
                    self._pending.setdefault(row, Counts()).add(counts)
                raise
            finally:
                self._writing = {}
        return {tenant for _, tenant, _, _ in taken}

    async def written(self, tenant: str, since: str) -> tuple[int, dict[str, Counts]]:
        """`writes`, and what the database has of a tenant then, of all servers, by day of UTC from `since` on
        (2026-01-31, or 2026-01). Raises Unavailable."""
        row = DailyUsageRow
        query = (
            select(row.day, *(func.sum(getattr(row, name)) for name in COUNTED))
            .where(row.tenant == tenant, row.day >= since)
            .group_by(row.day)
        )
        async with self._lock:  # between writes: what is being written is neither unwritten nor read
            async with self._database.read() as session:
                found = {day: Counts(*map(int, sums)) for day, *sums in await session.execute(query)}
            return self.writes, found

    def unwritten(self, tenant: str) -> Iterator[tuple[str, Counts]]:
        """This server's, with the day of UTC."""
        for rows in (self._pending, self._writing):
            yield from ((day, counts) for (day, owner, _, _), counts in rows.items() if owner == tenant)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.flush()

    async def page(self, wanted: UsageFilter, limit: int, page_token: str | None) -> account_answers.UsagePage:
        """Groups in order of the columns they are grouped by, with what was not written yet. Raises InvalidRequest."""
        await self.flush()
        groups = [group for group in _ALL_GROUPS if group in wanted.group_by]
        columns = [getattr(wanted.table, group) for group in groups]
        sums = (func.sum(getattr(wanted.table, name)) for name in COUNTED)
        query = select(*columns, *sums).where(*_conditions(wanted))
        if columns:
            query = query.group_by(*columns).order_by(*columns).limit(limit + 1)
        if page_token:
            query = query.where(tuple_(*columns) > tuple_(*_place(page_token, len(groups))))
        async with self._database.read() as session:
            rows = [row for row in await session.execute(query) if row[-1] is not None]
            keys = {row[-1 - len(COUNTED)] for row in rows} if "key" in groups else set()
            named = select(KeyRow.id, KeyRow.name).where(KeyRow.id.in_(keys))
            names = dict((await session.execute(named)).tuples().all()) if keys else {}
        last = msgspec.json.encode(rows[limit - 1][: len(groups)]) if len(rows) > limit else None
        token = encode_token(last.decode()) if last else None
        return account_answers.UsagePage(
            items=[_shown(groups, row, self._prices, names) for row in rows[:limit]], next_page_token=token
        )

    async def by_adapter(self, since: date) -> dict[str | None, AdapterRequests]:
        """Of all tenants, from that day (UTC) on, with what is not written yet; None for the base model. Writes
        nothing, so that it can be asked every few seconds. Raises Unavailable."""
        row = DailyUsageRow
        query = (
            select(row.adapter, row.day, func.sum(row.requests))
            .where(row.day >= since.isoformat(), row.requests > 0)
            .group_by(row.adapter, row.day)
        )
        found: defaultdict[str | None, Counter[str]] = defaultdict(Counter)
        async with self._lock:  # between writes: what is being written is neither pending nor read
            async with self._database.read() as session:
                for adapter, day, total in await session.execute(query):
                    found[adapter or None][day] += int(total)
            for (day, _, adapter, _), counts in self._pending.items():
                if counts.requests and day >= since.isoformat():
                    found[adapter or None][day] += counts.requests
        return {adapter: AdapterRequests(dict(by_day)) for adapter, by_day in found.items()}

    def _today(self) -> str:
        now = time.time()
        if now >= self._day_ends:
            self._day = datetime.fromtimestamp(now, UTC).date().isoformat()
            self._day_ends = (now // _SECONDS_A_DAY + 1) * _SECONDS_A_DAY
        return self._day

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                written = await self.flush()
                for told in self.after_write if written else ():
                    await told(written)
            except Exception as error:
                _log.warning("usage could not be written, and will be with the next turn: %s", error)


async def _write(change: Change, taken: dict[_Row, Counts]) -> None:
    of_all_keys: defaultdict[tuple[str, ...], Counts] = defaultdict(Counts)
    for row, counts in taken.items():
        of_all_keys[row[:3]].add(counts)
        await upsert(change.session, KeyUsageRow, dict(zip(_ALL_GROUPS, row, strict=True)), asdict(counts), added)
    for place, counts in of_all_keys.items():
        await upsert(change.session, DailyUsageRow, dict(zip(GROUPS, place, strict=True)), asdict(counts), added)


def _conditions(wanted: UsageFilter) -> list[Any]:
    table, named = wanted.table, {"tenant": wanted.tenant, "adapter": wanted.adapter, "key": wanted.key}
    conditions: list[Any] = [getattr(table, name) == value for name, value in named.items() if value is not None]
    if wanted.since is not None:
        conditions.append(table.day >= wanted.since.isoformat())
    if wanted.until is not None:
        conditions.append(table.day <= wanted.until.isoformat())
    return conditions


def _place(page_token: str, length: int) -> list[str]:
    try:
        place = msgspec.json.decode(decode_token(page_token), type=list[str])
    except (msgspec.DecodeError, msgspec.ValidationError):
        place = []
    if not place or len(place) != length:
        raise InvalidRequest("page_token is not one that this server gave for this grouping.", pointer="page_token")
    return place


def _shown(
    groups: Sequence[Group], row: Sequence[Any], prices: Prices | None, names: Mapping[str, str]
) -> account_answers.UsageRow:
    """names: of keys, by their ids."""
    shown: dict[str, Any] = {name: int(value) for name, value in zip(COUNTED, row[len(groups) :], strict=True)}
    device, saved, again = (shown.pop(name) / 1e6 for name in ("device_us", "saved_us", "again_us"))
    if prices is not None:
        shown["money"] = prices.money(device, shown["cached_tokens"], saved, again, shown["stored_token_seconds"])
    shown["stored_token_hours"] = shown.pop("stored_token_seconds") / 3600
    shown |= {group: value if group == "day" else value or None for group, value in zip(groups, row, strict=False)}
    if "key" in groups:
        shown["key_name"] = names.get(shown["key"])
    # Requests of before writes were counted have all that was not cached here.
    uncached = max(0, shown["prompt_tokens"] - shown["cached_tokens"] - shown["cache_write_tokens"])
    return account_answers.UsageRow(uncached_tokens=uncached, device_ms=device * 1000, **shown)
