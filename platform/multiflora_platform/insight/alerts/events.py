"""Alerts that came and went, written as events; feeds and webhooks tell them on. Knows no condition."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import func, select

from multiflora_platform.insight.alerts.alerts import AlertChange
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.tables import EventRow
from multiflora_platform.web.problems import Problem

_log = logging.getLogger(__name__)

RAISED, CLEARED = "alert.raised", "alert.cleared"
_MOST_OWED = 1000
# How far back a start looks for alerts that its predecessor left raised.
_LOOKED_BACK = 100_000


class AlertEvents:
    """server: whose alerts they are, of several on the database."""

    def __init__(self, database: Database, server: str) -> None:
        self._database = database
        self._server = server
        self._owed: deque[tuple[str, dict[str, Any]]] = deque(maxlen=_MOST_OWED)
        self._writing: asyncio.Task[None] | None = None

    async def clear_left(self) -> None:
        """Of a server that was killed, no alert stays raised: what still holds is raised anew."""
        async with self._database.read() as session:
            last = await session.scalar(select(func.max(EventRow.id))) or 0
            of_alerts = EventRow.type.in_((RAISED, CLEARED)) & (EventRow.id > last - _LOOKED_BACK)
            events = list(await session.scalars(select(EventRow).where(of_alerts).order_by(EventRow.id)))
        left: dict[str, dict[str, Any]] = {}
        for event in events:
            if event.payload.get("server") == self._server:
                left.pop(event.payload["alert"], None)
                if event.type == RAISED:
                    left[event.payload["alert"]] = event.payload
        self._owed.extend((CLEARED, {**payload, "reason": "the server was started anew"}) for payload in left.values())
        self._write_soon()

    def note(self, changes: Sequence[AlertChange]) -> None:
        """What the database cannot take now is tried again with the next call."""
        for change in changes:
            alert = msgspec.structs.asdict(change.alert)
            payload = {"alert": alert.pop("id"), **alert, "server": self._server}
            self._owed.append((RAISED if change.is_raised else CLEARED, payload))
            level = logging.WARNING if change.is_raised else logging.INFO
            said = "Alert" if change.is_raised else "Over"
            _log.log(level, "%s: %s. %s", said, change.alert.title, change.alert.detail)
        self._write_soon()

    async def close(self) -> None:
        """Waits for what is being written."""
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)

    def _write_soon(self) -> None:
        if self._owed and (self._writing is None or self._writing.done()):
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        owed = list(self._owed)
        self._owed.clear()

        async def work(change: Change) -> None:
            for type, payload in owed:
                change.tell(type, **payload)

        try:
            await self._database.write("server", work)
        except Problem as error:
            self._owed.extendleft(reversed(owed))
            _log.warning("%d events of alerts are not written yet: %s", len(owed), error.detail)
