"""What a client can make the listening side keep in memory, or wait for."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from multiflora_platform.server import http_server
from multiflora_platform.server.http_server import BoundedProtocol, allow_many_connections

POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def slow_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the body, thinks for longer than a client may, and answers with the body's length."""
    patience = http_server.CLIENT_PATIENCE
    length, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        length += len(message["body"])
        more = message["more_body"]
    await asyncio.sleep(1.2 * patience)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
    await send({"type": "http.response.body", "body": b"%d" % length, "more_body": False})


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(http_server, "CLIENT_PATIENCE", 0.3)
    config, state = uvicorn.Config(slow_app, log_config=None, lifespan="off"), ServerState()
    server = await asyncio.get_running_loop().create_server(lambda: BoundedProtocol(config, state, {}), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
    for connection in list(state.connections):
        connection.transport.abort()
    await asyncio.sleep(0)  # the transports tell their protocols in the loop's next turn
    assert not state.connections


async def connect(port: int, *pieces: bytes) -> Connection:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    return reader, writer


async def rest(connection: Connection) -> bytes:
    """What comes until the other side closes."""
    reader, writer = connection
    try:
        return await asyncio.wait_for(reader.read(), 30)
    except ConnectionResetError:
        return b""
    finally:
        await end(writer)


async def end(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_endless_trailers_close_the_connection(port: int) -> None:
    trailers = b"".join(b"x-%d: %s\r\n" % (number, b"a" * 1000) for number in range(100))
    assert await rest(await connect(port, POST, b"0\r\n", trailers)) == b""


async def test_an_endless_trailer_and_an_endless_chunk_extension_close_it_too(port: int) -> None:
    endless = b"a" * (70 << 10)
    assert await rest(await connect(port, POST, b"0\r\nx-a: ", endless)) == b""
    assert await rest(await connect(port, POST, b"2;x=", endless)) == b""


async def test_a_long_body_in_one_chunk_is_not_taken_for_a_head(port: int) -> None:
    body = b"x" * (200 << 10)
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert (await rest(await connect(port, head, body))).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("begun", [b"", b"\r\n", b"GET / HT", POST, POST[:-4]])
async def test_a_client_that_stops_in_the_middle_of_a_request_is_let_go(port: int, begun: bytes) -> None:
    assert await rest(await connect(port, begun)) == b""


async def test_a_head_that_drips_is_let_go(port: int) -> None:
    connection = await connect(port)
    drip = asyncio.create_task(_drip(connection[1]))
    assert await rest(connection) == b""
    drip.cancel()


async def test_a_client_that_sends_its_body_slowly_but_steadily_and_waits_for_a_slow_answer_is_served(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "CLIENT_PATIENCE", 2.0)
    connection = await connect(port, POST)
    for _ in range(4):
        await asyncio.sleep(0.6)
        connection[1].write(b"1\r\n \r\n")
    connection[1].write(b"0\r\n\r\n")
    assert (await asyncio.wait_for(connection[0].readuntil(b"\r\n\r\n6"), 30)).startswith(b"HTTP/1.1 200 OK")
    await end(connection[1])


async def _drip(writer: asyncio.StreamWriter) -> None:
    for letter in b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 1000:
        writer.write(bytes([letter]))
        await asyncio.sleep(0.05)


def test_open_files_are_as_many_as_the_system_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[Any] = []
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: chosen.append((kind, limits)))
    for limits in ((1024, 4096), (1024, resource.RLIM_INFINITY), (1 << 17, 1 << 20), (resource.RLIM_INFINITY,) * 2):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, limits=limits: limits)
        allow_many_connections()
    assert chosen == [
        (resource.RLIMIT_NOFILE, (4096, 4096)),
        (resource.RLIMIT_NOFILE, (1 << 16, resource.RLIM_INFINITY)),
    ]
