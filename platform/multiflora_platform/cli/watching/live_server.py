"""Asks a server for what `multiflora top` shows. Remembers the requests that ended, so that only changes are sent."""

from __future__ import annotations

import argparse
import re
import time
from typing import Any

from multiflora_platform.cli.http import call
from multiflora_platform.cli.watching.live_numbers import (
    RATE_SECONDS,
    WINDOW_SECONDS,
    Answers,
    Numbers,
    Row,
    ended_at,
    has_ended,
    numbers_of,
)
from multiflora_platform.exit_codes import CommandError, ExitCode

_PATIENCE = 10.0
"""Seconds for one answer."""
_PAGE = 1000
_UNKNOWN_KEY = "invalid-api-key"
_STARTED = re.compile(r"^process_start_time_seconds (\S+)$", re.MULTILINE)


class LiveServer:
    """url, api_key: of the arguments. Call `look` again and again."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._ended: dict[str, Row] = {}
        self._cursor: str | None = None
        self._started_at: float | None = None

    def look(self) -> Numbers:
        """Raises CommandError: the server cannot be reached, or does not know the key."""
        alerts = self._items("/api/v1/alerts")  # first: it needs no engine, and judges the key
        version = self._told("/version")
        series = self._told(f"/api/v1/series?window={RATE_SECONDS}")
        points = None if series is None else series["points"]
        at = time.time()
        requests = self._requests(points[-1]["at"] if points else at)
        return numbers_of(
            Answers(
                url=self._arguments.url,
                at=at,
                version=None if version is None else version["version"],
                started_at=self._started_at,
                models=self._items("/api/v1/models"),
                replicas=self._items("/api/v1/replicas?on_disk=false"),
                points=points,
                alerts=alerts,
                requests=requests,
            )
        )

    def _told(self, path: str, **options: Any) -> Any | None:
        """None: this key is not told it, or the server cannot tell it now. Raises as `look`."""
        try:
            return call(self._arguments, "GET", path, timeout=_PATIENCE, **options).json()
        except CommandError as error:
            if error.code == ExitCode.UNREACHABLE or error.slug == _UNKNOWN_KEY:
                raise
            return None

    def _items(self, path: str) -> list[Row] | None:
        answer = self._told(path)
        return None if answer is None else answer["items"]

    def _requests(self, now: float) -> list[Row] | None:
        """Those that run, which each answer has, and those that ended in the last WINDOW_SECONDS."""
        page = self._told("/api/v1/requests", params=self._asking())
        if page is None:
            return None
        if page["is_complete"]:  # the first answer, or another process than before
            self._ended.clear()
            self._started_at = self._process_start()
        rows, cursor = list(page["items"]), page["cursor"]
        while page is not None and page["next_page_token"]:
            page = self._told("/api/v1/requests", params={**self._asking(), "page_token": page["next_page_token"]})
            rows += page["items"] if page is not None else ()
        self._cursor = cursor
        self._ended |= {row["id"]: row for row in rows if has_ended(row)}
        self._ended = {id: row for id, row in self._ended.items() if ended_at(row) > now - WINDOW_SECONDS}
        return [*self._ended.values(), *(row for row in rows if not has_ended(row))]

    def _asking(self) -> dict[str, Any]:
        return {"limit": _PAGE, **({"since": self._cursor} if self._cursor else {})}

    def _process_start(self) -> float | None:
        """Unix seconds; asked once for each process, for a scrape is long."""
        try:
            found = _STARTED.search(call(self._arguments, "GET", "/metrics", timeout=_PATIENCE).text)
        except CommandError:
            return None
        return None if found is None else float(found[1])
