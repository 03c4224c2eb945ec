"""The databases that the registry's tests have."""

from __future__ import annotations

from tests.platform.registry.conftest import backend, database_url, postgres, postgres_schema

__all__ = ["backend", "database_url", "postgres", "postgres_schema"]
