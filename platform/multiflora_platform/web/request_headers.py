"""What routes take from request headers: preconditions, and how long the client is ready to wait."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header

from multiflora_platform.web.etags import Precondition

_LONGEST_WAIT = 600.0


def _unchanged(if_match: Annotated[str | None, Header()] = None) -> Precondition:
    return Precondition(if_match)


def _absent(if_none_match: Annotated[str | None, Header()] = None) -> Precondition:
    return Precondition(if_none_match=if_none_match)


# If-Match, of a request that changes a resource.
Unchanged = Annotated[Precondition, Depends(_unchanged)]
# If-None-Match: *, of a request that makes one.
Absent = Annotated[Precondition, Depends(_absent)]


def preferred_wait(prefer: str | None) -> float | None:
    """Seconds of RFC 7240's `wait=`, 0 of `respond-async`; None: no preference that we know. At most ten minutes."""
    for preference in (prefer or "").lower().split(","):
        name, _, value = preference.partition(";")[0].strip().partition("=")
        if name.strip() == "respond-async":
            return 0.0
        value = value.strip().strip('"')
        if name.strip() == "wait" and value.isascii() and value.isdecimal():
            return min(float(value[:6]), _LONGEST_WAIT)
    return None
