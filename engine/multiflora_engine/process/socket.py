"""The engine's end of the socket to the gateway: msgpack messages over ZeroMQ, both ways, never blocking on a send.

Knows messages, not what they mean.
"""

from __future__ import annotations

import contextlib
import logging

import msgspec
import zmq

from multiflora_engine.protocol.messages import FromEngine, ToEngine

_log = logging.getLogger(__name__)


class EngineSocket:
    """The socket to the gateway. A message that cannot be decoded is logged and dropped: it may not end the engine."""

    def __init__(self, path: str) -> None:
        self._socket = zmq.Context(1).socket(zmq.DEALER)
        self._socket.set_hwm(0)
        self._socket.linger = 1000
        self._socket.bind(f"ipc://{path}")
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(ToEngine).decode

    def send(self, message: FromEngine) -> None:
        with contextlib.suppress(zmq.Again):  # no gateway is connected any more
            self._socket.send(self._encode(message), zmq.NOBLOCK)

    def wait(self, milliseconds: int) -> None:
        """Until a message arrives, or that long."""
        self._socket.poll(milliseconds)

    def receive(self) -> ToEngine | None:
        """The next message, if one is there."""
        while True:
            try:
                frame = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return None
            try:
                message: ToEngine = self._decode(frame)
            except msgspec.DecodeError as error:
                _log.error("Dropped an undecodable message (%d bytes): %s", len(frame), error)
            else:
                return message

    def close(self) -> None:
        """Sends what is queued, for a second at most."""
        context = self._socket.context
        self._socket.close()
        context.term()
