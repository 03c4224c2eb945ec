"""The keys by which engines and gateways of one installation know each other, derived from the secret that they share.

Who has not the secret can neither be heard by an engine nor pass for one. CURVE's, in Z85.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import zmq
from zmq.utils import z85


class KeyPair(NamedTuple):
    public: str
    secret: str


class LineKeys(NamedTuple):
    engines: KeyPair
    gateways: KeyPair


def line_keys(derive: Callable[[str, str], str]) -> LineKeys:
    """derive: 64 hex digits for a purpose and a value, as Secret does."""
    return LineKeys(_pair(derive("line", "engines")), _pair(derive("line", "gateways")))


def _pair(seed: str) -> KeyPair:
    """Any 32 bytes are a secret key of Curve25519."""
    secret = z85.encode(bytes.fromhex(seed))
    return KeyPair(zmq.curve_public(secret).decode(), secret.decode())
