"""Where a list under /api goes on: page tokens, opaque to clients, the last row's key to us; ids of feeds' events."""

from __future__ import annotations

import base64
import binascii

from multiflora_platform.web.problems import InvalidRequest

# The largest id that a column holds: where a list that runs backwards begins.
LAST_ID = 2**63 - 1


def encode_token(last: str) -> str:
    return base64.urlsafe_b64encode(last.encode()).decode().rstrip("=")


def decode_token(token: str) -> str:
    """Raises InvalidRequest."""
    try:
        return base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise _not_ours() from None


def row_id(token: str) -> int:
    """The id that a page token holds. Raises InvalidRequest."""
    text = decode_token(token)
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= LAST_ID):
        raise _not_ours()
    return int(text)


def event_id(text: str) -> int:
    """Of the header Last-Event-ID, which a browser sends when its feed has broken. Raises InvalidRequest."""
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise InvalidRequest("An event's id is a whole number.", pointer="Last-Event-ID")
    return int(text)


def _not_ours() -> InvalidRequest:
    return InvalidRequest("page_token is not one that this server gave.", pointer="page_token")
