"""What every HTTP request passes before its route, as plain ASGI: identity, log line, guards, limits.

From the outside in: AccessLog -> Guard -> BodyLimit -> application.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
import time
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from urllib.parse import urlsplit

import msgspec
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from multiflora_platform.auth.credentials import identify
from multiflora_platform.auth.dependencies import PUBLIC, PUBLIC_PREFIXES
from multiflora_platform.insight.logged_request import PromptFacts
from multiflora_platform.services import Services
from multiflora_platform.settings import Settings
from multiflora_platform.web.anthropic_errors import speaks_anthropic
from multiflora_platform.web.error_responses import note_code, render_error
from multiflora_platform.web.openai_errors import unavailable
from multiflora_platform.web.refusals import AuthError, Unauthenticated

access_log = logging.getLogger("multiflora.access")
MAX_HEAD_BYTES = 64 << 10
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z")
_UPLOAD = re.compile(r"(/api/v1/adapters/[^/]+/versions|/v1/files)\Z")
_HOST = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{0,5}))?")
_LAST_PORT = 65535
_API = "/api/v1"
_UPLOAD_SLACK = 1 << 20
_NOT_LISTED = (_API, "/ui", "/health", "/ping", "/docs", "/favicon")
_SHOWN_PATH = 200


class AccessLog:
    """Gives each request an id (the client's, if it is a sane one), times it, counts it and writes one JSON line."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                taken = b"%d" % ((time.perf_counter() - start) * 1e3)
                head = [(b"x-request-id", request_id.encode()), (b"openai-processing-ms", taken)]
                if speaks_anthropic(scope):
                    head.append((b"request-id", request_id.encode()))
                head += self._limits(scope)
                message = {**message, "headers": [*message["headers"], *head]}
            await send(message)

        counted = not scope["path"].startswith(("/health", "/ping"))
        if counted:
            self._services.request_began()
        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            if status:
                raise
            note_code(scope, error)
            await render_error(scope, error)(scope, receive, send_with_id)
        finally:
            if counted:
                self._services.request_ended()
            self._note(scope, request_id, status, time.perf_counter() - start)

    def _limits(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """What is left of the limits that this request counted against."""
        principal = scope.get("state", {}).get("limited")
        found = self._services.limits.headers(principal) if principal else {}
        return [(name.encode(), value.encode()) for name, value in found.items()]

    def _note(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        if scope.get("state", {}).get("client_gone"):
            status = 499
        route = _route(scope)
        method = scope["method"] if status != 405 and route != "unmatched" else "ANY"
        self._services.metrics.http(method, route, status or 500)
        self._list_refused(scope, request_id, status)
        self._count_refused(scope)
        if access_log.isEnabledFor(logging.INFO):
            state = scope.get("state", {})
            principal = state.get("principal")
            line = {
                "request_id": request_id,
                "method": scope["method"],
                "path": scope["path"],
                "status": status or 500,
                "seconds": round(seconds, 4),
                "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "key": None if principal is None else principal.key_id,
                "tenant": None if principal is None else principal.tenant,
                "model": state.get("model"),
                "client": (scope.get("client") or ("", 0))[0],
            }
            access_log.info(msgspec.json.encode(line).decode("utf-8", "replace"))

    def _list_refused(self, scope: Scope, request_id: str, status: int) -> None:
        """What was refused before it was a prompt stands in no other list. Admins see their own calls' errors."""
        state, path = scope.get("state", {}), scope["path"]
        if state.get("is_listed") or "error_code" not in state or path.startswith(_NOT_LISTED):
            return
        principal = state.get("principal")
        facts = PromptFacts(
            id=request_id,
            at=time.time(),
            tenant=None if principal is None else principal.tenant,
            model=state.get("model") or "",
            adapter=None,
            version=0,
            digest=None,
            path=path[:_SHOWN_PATH],
            stream=False,
            prompt_tokens=0,
            key_id=None if principal is None else principal.key_id,
        )
        self._services.insight.requests.refuse(facts, status or 500, state["error_code"])

    def _count_refused(self, scope: Scope) -> None:
        state = scope.get("state", {})
        principal, cause = state.get("principal"), state.get("refusal")
        if principal is not None and principal.tenant is not None and cause is not None:
            self._services.usage.refusals.count(principal.tenant, cause)


class Guard:
    """Refuses, before any route: oversized heads, foreign hosts, requests without a key, and all while draining."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services
        self._hosts = AllowedHosts(services.settings.host, own_names(services.settings))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._error(scope) if scope["type"] == "http" else None
        if error is None:
            await self._app(scope, receive, send)
            return
        note_code(scope, error)
        await render_error(scope, error)(scope, receive, send)

    def _error(self, scope: Scope) -> Exception | None:
        """Why the request is refused."""
        path: str = scope["path"]
        size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
        size += sum(len(name) + len(value) for name, value in scope["headers"])
        if size > MAX_HEAD_BYTES:
            return HTTPException(431, f"The request's head is over {MAX_HEAD_BYTES >> 10} KiB.")
        if "\0" in path or b"%00" in scope["query_string"]:  # PostgreSQL holds no such text
            return HTTPException(400, "The address has a NUL character.")
        headers = Headers(scope=scope)
        hosts = headers.getlist("host") or [""]
        if len(hosts) > 1 or (hosts[0] and _host_name(hosts[0]) is None):
            return HTTPException(400, "The Host header is malformed; it is one NAME or NAME:PORT.")
        if not self._hosts.allow(hosts[0]):
            message = "The Host header names another server; start with --allowed-host NAME to accept it."
            return HTTPException(400, message)
        if is_public(path):
            return None
        try:
            if identify(HTTPConnection(scope), self._services.keys) is None:
                raise Unauthenticated
        except AuthError as error:
            return error
        if self._services.draining and path != "/metrics":
            return unavailable("The server is shutting down.")
        return None


def own_names(settings: Settings) -> list[str]:
    """Hosts that are ours by the settings."""
    public = urlsplit(settings.public_url).hostname if settings.public_url else None
    return [*settings.allowed_host, *([public] if public else [])]


class AllowedHosts:
    """Loopback names, the bind address, configured names (`*`: all). Bound to every address, any IP address and this
    machine's name are accepted, too: what DNS rebinding needs is a name."""

    def __init__(self, bind: str, configured: Iterable[str]) -> None:
        names = {"localhost", "127.0.0.1", "::1", bind.lower(), *(name.lower() for name in configured)}
        self._all = "*" in names
        self._is_wildcard = bind in ("0.0.0.0", "::", "")
        self._names = names | ({socket.gethostname().lower()} if self._is_wildcard else set())

    def allow(self, host: str) -> bool:
        if self._all and not host:
            return True
        name = _host_name(host)
        if name is None:
            return False
        return self._all or name in self._names or (self._is_wildcard and _is_address(name))


class BodyLimit:
    """Refuses bodies over the limit, by their declared length when they are first read, or as they come."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._settings = services.settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        upload = _UPLOAD.match(scope["path"])
        limit = self._settings.max_upload_bytes + _UPLOAD_SLACK if upload else self._settings.max_request_bytes
        declared = Headers(scope=scope).get("content-length", "")
        read = int(declared) if declared.isdecimal() and int(declared) > limit else 0

        async def limited() -> Message:
            nonlocal read
            if read <= limit:
                message = await receive()
                if message["type"] != "http.request":
                    return message
                read += 0 if declared.isdecimal() else len(message.get("body", b""))
                if read <= limit:
                    return message
            raise HTTPException(413, f"The body is larger than {limit} bytes.", {"Connection": "close"})

        await self._app(scope, limited, send)


def is_public(path: str) -> bool:
    """Whether a path is served without a key."""
    return path in PUBLIC or any(path == prefix or path.startswith(prefix + "/") for prefix in PUBLIC_PREFIXES)


def _route(scope: Scope) -> str:
    """The path as declared. A route of an included router does not know the router's prefix."""
    route: str = getattr(scope.get("route"), "path", "unmatched")
    if scope["path"].startswith(_API) and route.startswith("/") and not route.startswith(_API):
        return _API + route
    return route


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _REQUEST_ID.match(given) else uuid.uuid4().hex


def _host_name(host: str) -> str | None:
    """Without the port; an IPv6 address without its brackets. None for what is no `name` or `name:port`."""
    found = _HOST.fullmatch(host)
    if found is None or int(found["port"] or 0) > _LAST_PORT:
        return None
    if found["ipv6"] is None:
        return found["name"].lower()
    return found["ipv6"].lower() if ":" in found["ipv6"] and _is_address(found["ipv6"]) else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
