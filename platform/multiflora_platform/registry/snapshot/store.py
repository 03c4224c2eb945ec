"""The present snapshot and how it follows the database: swapped after a commit and before the answer.

Every change of an adapter calls `touch` inside its transaction. Does not know what changes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from multiflora_platform.registry.errors import AdapterNotFound
from multiflora_platform.registry.snapshot.loader import load_entries
from multiflora_platform.registry.snapshot.snapshot import AdapterEntry, Snapshot
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.tables import EventRow


class SnapshotStore:
    """snapshot: what requests see right now."""

    def __init__(self, database: Database, served: Collection[str]) -> None:
        """served: digests of the base models that are served, as they change."""
        self._database = database
        self._served = served
        self.snapshot = Snapshot({})
        # So far; another number tells that something of an adapter has changed.
        self.num_snapshots = 0

    def adapter(self, name: str) -> AdapterEntry:
        """Raises AdapterNotFound."""
        entry = self.snapshot.adapters.get(name)
        if entry is None:
            raise AdapterNotFound(f"There is no adapter named {name[:80]!r}.")
        return entry

    async def touch(self, change: Change, name: str) -> None:
        """The adapter's entry as this transaction leaves it becomes visible with the commit."""
        await change.session.flush()
        entries = await self.load(change.session, name)
        change.after_commit.append(lambda: self.swap(self.snapshot.replaced(*entries)))

    def drop(self, change: Change, name: str) -> None:
        """The name is unknown from the commit on."""
        change.after_commit.append(lambda: self.swap(self.snapshot.without(name)))

    def swap(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.num_snapshots += 1

    async def follow(self, events: Sequence[EventRow]) -> None:
        """Others' events: their adapters are read anew, those that are gone are dropped."""
        names = {event.adapter for event in events if event.adapter is not None}
        async with self._database.read() as session:
            found = [entry for name in sorted(names) for entry in await self.load(session, name)]
        gone = names - {entry.name for entry in found}
        kept = {name: entry for name, entry in self.snapshot.adapters.items() if name not in gone}
        self.swap(Snapshot({**kept, **{entry.name: entry for entry in found}}))

    async def load(self, session: AsyncSession, name: str | None = None) -> list[AdapterEntry]:
        """As the session sees them: all, or the one if it exists."""
        return await load_entries(session, self._served, name)

    async def load_all(self) -> None:
        """At the start. The follower waits meanwhile, so that this cannot overwrite what it has just read anew."""
        async with self._database.read_between_writes() as session:
            entries = await self.load(session)
        self.swap(Snapshot({entry.name: entry for entry in entries}))
