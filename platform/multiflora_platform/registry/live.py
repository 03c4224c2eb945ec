"""The present snapshot and how it follows the database: swapped after a commit and before the answer.

Every change of an adapter calls `touch` inside its transaction. Does not know what changes.
"""

from __future__ import annotations

from multiflora_platform.registry import catalog
from multiflora_platform.registry.database import Change, Database
from multiflora_platform.registry.errors import AdapterNotFound
from multiflora_platform.registry.snapshot import AdapterEntry, Snapshot


class Live:
    """snapshot: what requests see right now."""

    def __init__(self, database: Database, base_digest: str) -> None:
        self._database = database
        self._base_digest = base_digest
        self.snapshot = Snapshot({})

    def adapter(self, name: str) -> AdapterEntry:
        """Raises AdapterNotFound."""
        entry = self.snapshot.adapters.get(name)
        if entry is None:
            raise AdapterNotFound(f"There is no adapter named {name[:80]!r}.")
        return entry

    async def touch(self, change: Change, name: str) -> None:
        """The adapter's entry as this transaction leaves it becomes visible with the commit."""
        await change.session.flush()
        entries = await catalog.load_entries(change.session, self._base_digest, name)
        change.after_commit.append(lambda: self.swap(self.snapshot.replaced(*entries)))

    def drop(self, change: Change, name: str) -> None:
        """The name is unknown from the commit on."""
        change.after_commit.append(lambda: self.swap(self.snapshot.without(name)))

    def swap(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    async def reload(self) -> None:
        async with self._database.read() as session:
            entries = await catalog.load_entries(session, self._base_digest)
        self.swap(Snapshot({entry.name: entry for entry in entries}))
