"""A cable between two sockets that can be cut: then nothing passes and no end hears of it, as in a network."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Cable:
    """port: on the loopback address, that leads to `target` there. seen: all bytes that passed, either way."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self.seen = bytearray()
        self._target = target
        self._whole = asyncio.Event()
        self._whole.set()

    def cut(self) -> None:
        self._whole.clear()

    def heal(self) -> None:
        self._whole.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._whole.wait()
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._whole.wait()
                self.seen += data
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def cable_to(target: int) -> AsyncIterator[Cable]:
    cable = Cable(target)
    server = await asyncio.start_server(cable._serve, "127.0.0.1", 0)
    cable.port = server.sockets[0].getsockname()[1]
    try:
        yield cable
    finally:
        cable.heal()
        server.close()
