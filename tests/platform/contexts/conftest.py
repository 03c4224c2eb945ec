"""A gateway with a real registry, whose engine keeps what contexts hold."""

from __future__ import annotations

from tests.platform.gateway.background.conftest import contexts
from tests.platform.gateway.conftest import make_house, tokenizer

__all__ = ["contexts", "make_house", "tokenizer"]
