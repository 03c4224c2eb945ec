"""The registry's fixtures: its tables and events are what the database is tested with."""

from __future__ import annotations

from tests.platform.registry.conftest import backend, database_url, house, open_house, postgres, postgres_schema

__all__ = ["backend", "database_url", "house", "open_house", "postgres", "postgres_schema"]
