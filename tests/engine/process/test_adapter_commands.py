"""Adapter commands whose adapter cannot come: what an error answers leaves nothing behind."""

from __future__ import annotations

from typing import Any, cast

from multiflora_engine.core.adapter_source import AdapterUnavailable
from multiflora_engine.process.adapter_commands import AdapterCommands, ManagedAdapters
from multiflora_engine.protocol.messages import AdapterCommand


class Gone:
    """Residency in which every adapter's file has vanished."""

    def __init__(self) -> None:
        self.pinned: set[str] = set()

    def pin(self, digest: str) -> None:
        self.pinned.add(digest)

    def unpin(self, digest: str) -> None:
        self.pinned.discard(digest)

    def load(self, digest: str) -> None: ...

    def acquire(self, digest: str) -> int | None:
        raise AdapterUnavailable("its file is gone")


def test_a_pin_that_failed_is_no_pin() -> None:
    """Or it would take room from other pins for an adapter that the gateway believes unpinned."""
    residency: Any = Gone()
    residency.pinned.add("loaded long ago")
    commands = AdapterCommands(cast(ManagedAdapters, residency), lambda slot: 0.0)
    for call_id, (action, digest) in enumerate([("pin", "a"), ("load", "loaded long ago")]):
        assert commands.submit(AdapterCommand(call_id, action, digest)) is None
    assert [result.error for result in commands.advance()] == ["its file is gone"] * 2
    assert residency.pinned == {"loaded long ago"}
    assert not commands.has_work
