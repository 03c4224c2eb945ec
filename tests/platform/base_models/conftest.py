"""The registry's fixtures: a database of each kind."""

from __future__ import annotations

from tests.platform.registry.conftest import backend, database_url, house, open_house, postgres, postgres_schema

__all__ = ["backend", "database_url", "house", "open_house", "postgres", "postgres_schema"]
