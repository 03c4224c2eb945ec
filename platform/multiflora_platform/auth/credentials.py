"""The sender of a request: by a key in a header, or by a browser's session. Other sites get nothing through.

A header is sent on purpose; a cookie, and an open server's permission, go with whatever a browser is made to send.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from multiflora_platform.auth.principals import Principal
from multiflora_platform.web.refusals import Forbidden

if TYPE_CHECKING:
    from multiflora_platform.auth.keys import KeyStore
    from multiflora_platform.auth.sessions import Session

CSRF_HEADER = "x-csrf-token"
_READS = frozenset({"GET", "HEAD", "OPTIONS"})


def identify(request: HTTPConnection, keys: KeyStore) -> Principal | None:
    """None without a good key or session. Raises Forbidden for a change that another site may have caused."""
    header = _key_header(request)
    if header is None and (session := session_of(request, keys)) is not None:
        if request.scope["method"] not in _READS:
            require_own_page(request, session)
        return session.principal
    principal = keys.authenticate(header)
    if header is None and principal is not None and request.scope["method"] not in _READS:
        require_same_origin(request)
    return principal


def _key_header(request: HTTPConnection) -> str | None:
    """`Bearer <key>`. Anthropic's clients send the bare key as x-api-key."""
    header = request.headers.get("authorization")
    key = request.headers.get("x-api-key")
    return f"Bearer {key}" if header is None and key is not None else header


def session_of(request: HTTPConnection, keys: KeyStore) -> Session | None:
    if "cookie" not in request.headers:
        return None
    value = request.cookies.get(keys.sessions.cookie)
    return keys.sessions.find(value) if value else None


def require_own_page(request: HTTPConnection, session: Session) -> None:
    """An Origin, ours, and the session's CSRF token. Raises Forbidden."""
    if "origin" not in request.headers:
        raise Forbidden("A change with a session's cookie needs an Origin header; scripts send a key instead.")
    require_same_origin(request)
    given = request.headers.get(CSRF_HEADER, "").encode("utf-8", "surrogatepass")
    if not hmac.compare_digest(given, session.csrf.encode()):
        raise Forbidden("A change with a session's cookie needs its X-CSRF-Token; scripts send a key instead.")


def require_same_origin(request: HTTPConnection) -> None:
    """Where a browser says which page asks, it is one of this server's. Raises Forbidden."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != request.headers.get("host", "").lower():
        raise Forbidden("The Origin header names another site.")
