"""ETags and what a request says about them: If-Match and If-None-Match. Knows neither resources nor responses.

An ETag is `"state"`, or `"state.observed"` where a resource also shows what was seen rather than set (when a key was
last used, a rollout's observations). Caches compare all of it; If-Match looks at the state alone, so that traffic does
not make an administrator's change stale.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from multiflora_platform.web.problems import PreconditionFailed, PreconditionRequired

_TAG = re.compile(r'"([^".]*)(?:\.[^"]*)?"')
_encode = msgspec.json.Encoder(order="deterministic").encode


def etag_of(state: Mapping[str, Any], observed: Mapping[str, Any] | None = None) -> str:
    """A strong validator: another representation, another ETag, in whichever process it is made."""
    return f'"{_hash(state)}"' if observed is None else f'"{_hash(state)}.{_hash(observed)}"'


def tagged(view: dict[str, Any]) -> dict[str, Any]:
    """The view with its ETag as `etag`."""
    return {**view, "etag": etag_of(view)}


@dataclass(frozen=True)
class Precondition:
    """What a request says about the resource's state; the route fills it from the headers."""

    if_match: str | None = None
    if_none_match: str | None = None
    # Whether a change without If-Match is refused; aliases ask for it, whatever moves traffic.
    required: bool = False

    def check(self, what: str, *etags: str) -> None:
        """what: for people. etags: by which it is known now; none: it does not exist.

        Raises PreconditionFailed, PreconditionRequired.
        """
        if self.if_none_match is not None and etags and is_current(self.if_none_match, *etags):
            raise PreconditionFailed(f"{what} exists already.", pointer="If-None-Match")
        if self.if_match is not None:
            if not _is_state(self.if_match, etags):
                raise PreconditionFailed(
                    f"{what} is not at {self.if_match} any more; GET it, look, and try again.", pointer="If-Match"
                )
        elif etags and self.required:
            raise PreconditionRequired(f"{what} exists: send its ETag (from GET) as If-Match.", pointer="If-Match")


UNCONDITIONAL = Precondition()


def is_current(if_none_match: str, *etags: str) -> bool:
    """Whether the header names one of the ETags (weak comparison, as RFC 9110 has it for If-None-Match)."""
    return bool(etags) and any(tag == "*" or tag.removeprefix("W/") in etags for tag in _tags(if_none_match))


def _is_state(if_match: str, etags: tuple[str, ...]) -> bool:
    states = {found[1] for etag in etags if (found := _TAG.fullmatch(etag))}
    named = (_TAG.fullmatch(tag) for tag in _tags(if_match))
    return bool(etags) and ("*" in _tags(if_match) or any(found[1] in states for found in named if found))


def _tags(header: str) -> list[str]:
    return [tag.strip() for tag in header.split(",")]


def _hash(fields: Mapping[str, Any]) -> str:
    return hashlib.blake2b(_encode(fields), digest_size=12).hexdigest()
