"""The engine's end of the lines to its starter and to gateways: msgpack over ZeroMQ, never blocking on a send.

Knows who is connected and messages, not what these mean.
"""

from __future__ import annotations

import errno
import hmac
import logging
from collections.abc import Collection
from dataclasses import dataclass

import msgspec
import zmq
from zmq.auth.thread import ThreadAuthenticator

from multiflora_engine.process.line import watch_line
from multiflora_engine.protocol.lines import Listen
from multiflora_engine.protocol.messages import PROTOCOL, EngineLoad, FromEngine, Hello, ToEngine

_log = logging.getLogger(__name__)

_GATEWAYS = "gateways"


@dataclass(eq=False, slots=True)
class Peer:
    """One connection, from its Hello on. The line after a cut is another one."""

    line: zmq.Socket[bytes]
    # As ZeroMQ tells connections of the line apart.
    identity: bytes
    # It is the process that started this one, and may end it.
    is_starter: bool
    # As its Hello named it.
    gateway: str = ""
    # Of the FollowCache that is in force; 0: it does not follow the cache. This and what follows the step loop fills.
    following: int = 0
    # Changes of the cache that others were told of before.
    changes_before: int = 0
    # Requests that came from it, and the load that it was told last.
    requests: int = 0
    told: EngineLoad | None = None


class EngineSocket:
    """path: of the unix socket of the process that started this one. A message that cannot be decoded, or that comes
    before its peer's Hello, is logged and dropped: it may not end the engine."""

    def __init__(self, path: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
        self._poller = zmq.Poller()
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(ToEngine).decode
        self._peers: dict[tuple[zmq.Socket[bytes], bytes], Peer] = {}
        self._gone: list[Peer] = []
        self._authenticator: ThreadAuthenticator | None = None
        self._starters = self._new_line()
        self._lines = [self._starters]
        self._starters.bind(f"ipc://{path}")

    def listen(self, where: Listen) -> None:
        """From now on gateways of other hosts that know the keys reach the engine. Raises OSError where the address
        cannot be had."""
        self._authenticator = ThreadAuthenticator(self._context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(_GATEWAYS, _OneKey(where.gateway_key.encode()))
        line = self._new_line()
        self._lines.append(line)
        watch_line(line, where.timeout)
        line.ipv6 = "[" in where.endpoint
        line.curve_server = True
        line.curve_secretkey = where.secret_key.encode()
        line.zap_domain = _GATEWAYS.encode()
        try:
            line.bind(where.endpoint)
        except zmq.ZMQError as error:
            raise OSError(error.errno, error.strerror) from None

    def _new_line(self) -> zmq.Socket[bytes]:
        line = self._context.socket(zmq.ROUTER)
        line.set_hwm(0)
        line.linger = 1000
        # A send to a peer that is gone is an error: so it is noticed.
        line.router_mandatory = True
        self._poller.register(line, zmq.POLLIN)
        return line

    @property
    def peers(self) -> Collection[Peer]:
        return list(self._peers.values())

    def send(self, peer: Peer, message: FromEngine) -> None:
        self._send(peer, self._encode(message))

    def send_all(self, message: FromEngine) -> None:
        """To all who are connected."""
        frame = self._encode(message)
        for peer in self.peers:
            self._send(peer, frame)

    def _send(self, peer: Peer, frame: bytes) -> None:
        try:
            peer.line.send_multipart((peer.identity, frame), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (errno.EHOSTUNREACH, errno.EAGAIN):
                raise
            if self._peers.pop((peer.line, peer.identity), None) is not None:
                self._gone.append(peer)

    def take_gone(self) -> list[Peer]:
        """Those that a message could not be sent to since the last call."""
        gone, self._gone = self._gone, []
        return gone

    def wait(self, milliseconds: int) -> None:
        """Until a message arrives, or that long."""
        self._poller.poll(milliseconds)

    def receive(self) -> tuple[Peer, ToEngine] | None:
        """The next message, if one is there, and whose it is."""
        for line in self._lines:
            while True:
                try:
                    identity, frame = line.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                received = self._read(line, identity, frame)
                if received is not None:
                    return received
        return None

    def _read(self, line: zmq.Socket[bytes], identity: bytes, frame: bytes) -> tuple[Peer, ToEngine] | None:
        try:
            message: ToEngine = self._decode(frame)
        except msgspec.DecodeError as error:
            _log.error("Dropped an undecodable message (%d bytes): %s", len(frame), error)
            return None
        peer = self._peers.get((line, identity))
        if isinstance(message, Hello):
            if message.protocol != PROTOCOL:
                _log.error("A gateway speaks protocol %d, this engine %d: run one release", message.protocol, PROTOCOL)
                return None
            peer = self._peers[line, identity] = Peer(line, identity, line is self._starters, message.gateway)
        if peer is None:
            _log.error("Dropped a %s from a peer that has not said Hello", type(message).__name__)
            return None
        return peer, message

    def close(self) -> None:
        """Sends what is queued, for a second at most."""
        if self._authenticator is not None:
            self._authenticator.stop()
        for line in self._lines:
            line.close()
        self._context.term()


class _OneKey:
    """The credentials provider of a line's authenticator."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def callback(self, domain: str, key: bytes) -> bool:
        return hmac.compare_digest(key, self._key)
