"""The contexts' parts put together."""

from __future__ import annotations

from multiflora_platform.contexts.book import ContextBook
from multiflora_platform.contexts.changes import ContextChanges
from multiflora_platform.storage.database import Database
from multiflora_platform.storage.outbox_follower import Follower


class Contexts:
    """Open with `await Contexts.open(...)`; the end writes the hits that the database does not know."""

    def __init__(self, database: Database) -> None:
        self.book = ContextBook(database)
        self.changes = ContextChanges(database, self.book)

    @classmethod
    async def open(cls, database: Database, follower: Follower) -> Contexts:
        """follower: has been started."""
        contexts = cls(database)
        await contexts.book.load(follower)
        return contexts

    async def close(self) -> None:
        await self.book.flush()
