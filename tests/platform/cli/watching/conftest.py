"""The gateway's fixtures: a whole application with a scripted engine."""

from __future__ import annotations

from tests.platform.gateway.conftest import house, make_house, tokenizer

__all__ = ["house", "make_house", "tokenizer"]
