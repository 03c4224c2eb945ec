"""A registry for each test, and a receiver of webhooks."""

from __future__ import annotations

from tests.platform.webhooks.conftest import house, open_house, receiver

__all__ = ["house", "open_house", "receiver"]
