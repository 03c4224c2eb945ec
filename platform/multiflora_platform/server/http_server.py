"""The listening side: the socket, what a client may make us keep or wait for, an end that lets streams finish.

Knows no routes.
"""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
import ssl
from types import FrameType
from typing import Any

import msgspec
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from multiflora_platform.server.middleware import MAX_HEAD_BYTES
from multiflora_platform.services import Services
from multiflora_platform.settings import ConfigurationError, Settings
from multiflora_platform.web.openai_errors import from_status

_REFUSAL = msgspec.json.encode(from_status(431, "The head is over 64 KiB; send fewer or shorter headers.").envelope())
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%s" % (len(_REFUSAL), _REFUSAL)
)


CLIENT_PATIENCE = 60.0
"""Seconds for which a client may let us wait for its request, or for the next piece of its body."""
_MOST_FILES = 1 << 16


def allow_many_connections() -> None:
    """Raises the limit of open files to what the system allows: the usual 1024 are few for a busy server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def listen(settings: Settings) -> socket.socket:
    """A bound socket. Raises ConfigurationError when the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"port {settings.port} is in use on {settings.host}; stop what listens there or give another --port"
            ) from None
        raise ConfigurationError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from None
    return listener


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's fast protocol, which would collect a head or trailers without end, and wait without end for the rest
    of a request. Complete heads the application judges."""

    _in_head = False
    _collected = 0
    """Bytes since the last that were of a body: the parser keeps them."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._progressed()
        self._expiry = self.loop.call_later(CLIENT_PATIENCE, self._expire)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expiry.cancel()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._collected = True, 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._progressed()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._progressed()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._progressed()
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        self._collected += len(data)
        super().data_received(data)
        if self._collected > MAX_HEAD_BYTES and not self.transport.is_closing():
            if self._in_head:
                self.transport.write(_TOO_LARGE)
            self.transport.close()

    def _progressed(self) -> None:
        """Pieces of a head are none: one byte a minute would keep a connection for ever."""
        self._collected = 0
        self._progress_at = self.loop.time()

    def _expire(self) -> None:
        if not self._owes():
            self._progress_at = self.loop.time()
        left = self._progress_at + CLIENT_PATIENCE - self.loop.time()
        if left > 0:
            self._expiry = self.loop.call_later(left, self._expire)
        else:
            self.transport.close()

    def _owes(self) -> bool:
        """Whether the client is to send something: a request, or the rest of a body that we are ready to read."""
        if self.cycle is None or self.cycle.response_complete:
            return True
        return self.cycle.more_body and not self.flow.read_paused


class HttpServer(uvicorn.Server):
    """Signals begin the drain instead of closing the listener; a second one ends at once."""

    def __init__(self, app: FastAPI, services: Services) -> None:
        config = uvicorn.Config(
            app,
            http=BoundedProtocol,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            **_tls(services.settings),
            timeout_graceful_shutdown=5,
        )
        super().__init__(config)
        self._services = services
        self._loop = asyncio.get_running_loop()
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self.begin_exit)

    def begin_exit(self) -> None:
        """Refuse new requests, let the running ones end, then stop. Called again: stop now."""
        if self._draining is None:
            self._draining = self._loop.create_task(self._drain())
        else:
            self.should_exit = True

    async def _drain(self) -> None:
        try:
            await self._services.drain(self._services.settings.drain_timeout)
        finally:
            self.should_exit = True


def _tls(settings: Settings) -> dict[str, Any]:
    """uvicorn's part of HTTPS; empty without a certificate."""
    if settings.ssl_certfile is None:
        return {}
    return {
        "ssl_keyfile": settings.ssl_keyfile,
        "ssl_certfile": settings.ssl_certfile,
        "ssl_ca_certs": None if settings.ssl_ca_certs is None else str(settings.ssl_ca_certs),
        "ssl_cert_reqs": settings.ssl_cert_reqs,
        "ssl_ciphers": settings.ssl_ciphers or "DEFAULT",
    }


def require_certificate(settings: Settings) -> None:
    """Raises ConfigurationError for a key or a certificate that cannot be used, before time goes into the model."""
    if settings.ssl_certfile is None:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, password="")
        if settings.ssl_ca_certs is not None:
            context.load_verify_locations(settings.ssl_ca_certs)
        context.set_ciphers(settings.ssl_ciphers or "DEFAULT")
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"HTTPS cannot be served with --ssl-certfile {settings.ssl_certfile} and --ssl-keyfile "
            f"{settings.ssl_keyfile}: {error}; give a PEM certificate with its own key, which has no password"
        ) from None


def address(listener: socket.socket, settings: Settings) -> str:
    """`http://host:port` as a client on this machine reaches it."""
    name: tuple[Any, ...] = listener.getsockname()
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(name[0], f"[{name[0]}]" if ":" in name[0] else name[0])
    scheme = "http" if settings.ssl_certfile is None else "https"
    return f"{scheme}://{host}:{name[1]}"
