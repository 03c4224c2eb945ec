"""The webhooks' parts put together."""

from __future__ import annotations

from collections.abc import Iterable

from multiflora_platform.auth.secret import Secret
from multiflora_platform.storage.database import Database
from multiflora_platform.webhooks.destinations import Destinations
from multiflora_platform.webhooks.dispatcher import Dispatcher
from multiflora_platform.webhooks.sender import Sender
from multiflora_platform.webhooks.subscriptions import Subscriptions


class Webhooks:
    """`dispatcher.start` begins to send; `close` ends it."""

    def __init__(self, database: Database, secret: Secret, allowed: Iterable[str] = ()) -> None:
        """allowed: networks beside the public ones that may be reached."""
        destinations = Destinations(allowed)
        self.subscriptions = Subscriptions(database, secret, destinations)
        self.dispatcher = Dispatcher(database, secret, Sender(destinations))

    async def close(self) -> None:
        await self.dispatcher.close()
