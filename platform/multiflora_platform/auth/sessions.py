"""Browser sessions: a signed cookie that stands for a key, for as long as the key is good. Does not know requests.

The cookie holds no key. It is checked against the directory each time, so that revoking the key ends its sessions.
"""

from __future__ import annotations

import hmac
import secrets
import time
from dataclasses import dataclass

from multiflora_platform.auth.directory import Directory
from multiflora_platform.auth.principals import Principal
from multiflora_platform.auth.secret import Secret

LIFETIME_SECONDS = 12 * 3600


@dataclass(frozen=True)
class Session:
    """What a good cookie stands for."""

    principal: Principal
    # What a change must bring beside the cookie.
    csrf: str
    # Unix seconds.
    expires_at: int


class Sessions:
    """Opens, finds and closes sessions. Keeps none: all that makes one is in the cookie, signed."""

    def __init__(self, secret: Secret, directory: Directory) -> None:
        self._secret = secret
        self._directory = directory
        # Session ids that were closed before their time, with their end in Unix seconds; dropped then.
        self._closed: dict[str, int] = {}
        # The cookie's name, another one for each installation, because cookies do not know ports.
        self.cookie = f"multiflora_{secret.derive('session-cookie', 'name')[:8]}"

    def open(self, digest: str) -> str:
        """The cookie's value. digest: the HMAC of a key that the directory knows."""
        body = f"{secrets.token_hex(16)}.{digest}.{int(time.time()) + LIFETIME_SECONDS}"
        return f"{body}.{self._secret.derive('session', body)}"

    def find(self, value: str) -> Session | None:
        """None: not one of ours, over, closed, or its key is no longer good."""
        body, _, signature = value.rpartition(".")
        if not hmac.compare_digest(self._secret.derive("session", body), signature.encode("ascii", "replace").decode()):
            return None
        session_id, digest, until = body.split(".")
        if int(until) <= time.time() or session_id in self._closed:
            return None
        principal = self._directory.find(digest)
        if principal is None:
            return None
        return Session(principal, self._secret.derive("csrf", session_id), int(until))

    def close(self, value: str) -> None:
        """Not found any more by this server, even if the cookie comes back."""
        if self.find(value) is None:
            return
        session_id, _, until = value.rpartition(".")[0].split(".")
        now = time.time()
        self._closed = {known: end for known, end in self._closed.items() if end > now} | {session_id: int(until)}
