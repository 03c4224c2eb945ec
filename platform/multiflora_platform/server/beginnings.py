"""What every command that runs for long begins with: its log, and the database. Knows no HTTP."""

from __future__ import annotations

import logging

from multiflora_platform.settings import ConfigurationError, Settings
from multiflora_platform.storage.database import Database
from multiflora_platform.web.problems import Problem


def log_to_stderr(settings: Settings) -> None:
    """Other packages' notes on their own progress are for debugging."""
    level = settings.log_level
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    if level == "info":
        for package in ("alembic", "httpx", "huggingface_hub"):
            logging.getLogger(package).setLevel(logging.WARNING)


def require_shared_database(settings: Settings) -> None:
    """Raises ConfigurationError."""
    if settings.database_url is None:
        raise ConfigurationError(
            "engines and gateways find each other in a database that all of them reach; give --database-url"
        )


async def open_database(url: str) -> Database:
    """Raises ConfigurationError."""
    try:
        return await Database.prepared(url)
    except Problem as error:
        raise ConfigurationError(error.detail) from None
