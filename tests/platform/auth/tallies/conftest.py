"""PostgreSQL for what several servers add up."""

from __future__ import annotations

from tests.platform.registry.conftest import postgres, postgres_schema

__all__ = ["postgres", "postgres_schema"]
