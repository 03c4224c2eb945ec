"""A gateway's end of one connection to an engine: frames out and in, and the moment when it is lost.

asyncio, torch-free. Knows sockets and keys, not messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq
from zmq.utils.monitor import parse_monitor_message

from multiflora_engine.protocol.lines import EngineAddress

_SIGNS = 4
"""In the time after which a line is held for cut, the other end is asked for a sign of life so often."""
_CONNECTING_MS = 3000
_CUTS = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL


def watch_line(socket: zmq.Socket[bytes], timeout: float) -> None:
    """A peer of which nothing is heard for so many seconds is cut off. For sockets of tcp, before they bind or connect.

    ZeroMQ's own threads ask and answer, so that neither a long step nor a busy gateway looks like a cut.
    """
    milliseconds = round(timeout * 1000)
    socket.heartbeat_ivl = milliseconds // _SIGNS
    socket.heartbeat_timeout = milliseconds - socket.heartbeat_ivl
    socket.heartbeat_ttl = milliseconds
    socket.handshake_ivl = _CONNECTING_MS
    socket.connect_timeout = _CONNECTING_MS


class EngineLine:
    """address: the path of a unix socket of this machine, or of an engine elsewhere. Needs a running event loop.

    on_frames: called when frames have come, which `receive` gives. on_cut: the connection that there was is lost; what
    came before has been announced. Only one connection: whoever wants another makes another line, so that nothing that
    was on its way to the one reaches the next.
    """

    def __init__(self, address: str | EngineAddress, on_frames: Callable[[], None], on_cut: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_frames = on_frames
        self._on_cut = on_cut
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set_hwm(0)
        self._monitor: zmq.Socket[bytes] | None = None
        if isinstance(address, EngineAddress):
            self._socket.reconnect_ivl = 100
            self._connect_safely(address)
        else:
            self._socket.reconnect_ivl = 10
            self._socket.connect(f"ipc://{address}")
        self._loop.add_reader(self._socket.fileno(), on_frames)

    def _connect_safely(self, address: EngineAddress) -> None:
        watch_line(self._socket, address.timeout)
        self._socket.ipv6 = "[" in address.endpoint
        self._socket.curve_serverkey = address.engine_key.encode()
        self._socket.curve_publickey = address.public_key.encode()
        self._socket.curve_secretkey = address.secret_key.encode()
        self._monitor = self._socket.get_monitor_socket(_CUTS)
        self._loop.add_reader(self._monitor.fileno(), self._look)
        self._look()  # what comes before the first look is not announced
        self._socket.connect(address.endpoint)

    def send(self, frame: bytes) -> None:
        """Waits for the other side where that is not there yet."""
        self._socket.send(frame, zmq.NOBLOCK)
        # Sending may swallow the edge that announces incoming frames; look for them ourselves.
        if int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._loop.call_soon(self._on_frames)

    def receive(self) -> bytes | None:
        """The next frame, if one has come; the descriptor announces only the first."""
        try:
            return self._socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            return None

    def close(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        if self._monitor is not None:
            self._loop.remove_reader(self._monitor.fileno())
            self._socket.disable_monitor()
        self._context.destroy(linger=0)

    def _look(self) -> None:
        while self._monitor is not None and self._monitor.poll(0):
            event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))
            if event["event"] & _CUTS:
                self._on_frames()
                self._on_cut()
                return
