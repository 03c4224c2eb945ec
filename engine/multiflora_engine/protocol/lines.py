"""Where lines to engines begin and end, and by which keys both ends know each other. Torch-free.

Keys are CURVE's (Curve25519), in Z85: 40 characters each. ZeroMQ encrypts and authenticates all that is sent with them.
"""

from __future__ import annotations

import msgspec

from multiflora_engine.protocol.config import EngineConfig


class Listen(msgspec.Struct, frozen=True):
    """Where an engine is reached from other hosts, and by whom."""

    # tcp://host:port
    endpoint: str
    # The engine's own secret key.
    secret_key: str
    # The public key of gateways: of peers with another one nothing is heard.
    gateway_key: str
    # Seconds of silence after which a line is held for cut; of both ends' the shorter one counts.
    timeout: float


class EngineAddress(msgspec.Struct, frozen=True):
    """Where a gateway finds an engine on another host, and how both know each other."""

    endpoint: str
    # The engine's public key: what has not its secret one cannot answer.
    engine_key: str
    # The gateway's own.
    public_key: str
    secret_key: str
    # See Listen.
    timeout: float


class EngineStart(msgspec.Struct, frozen=True):
    """All that an engine process is started with, by its starter alone: on its standard input, as msgpack."""

    config: EngineConfig
    # Of the unix socket to its starter.
    path: str
    # None: only its starter reaches it.
    listen: Listen | None = None
