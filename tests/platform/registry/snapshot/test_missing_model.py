"""A name that means nothing, beside very many adapters: the nearest is found among few, and few are asked for."""

from __future__ import annotations

from datetime import UTC, datetime

from multiflora_platform.registry.snapshot.missing_model import why_missing
from multiflora_platform.registry.snapshot.snapshot import AdapterEntry, Snapshot

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def entry(id: int, name: str) -> AdapterEntry:
    return AdapterEntry(id, name, "", (), None, (), None, NOW, NOW, {}, {1: "d" * 64}, {1: "b" * 64}, {})


def test_beside_ten_thousand_adapters_few_are_looked_at() -> None:
    snapshot = Snapshot({one.name: one for one in (entry(i, f"support-{i:05}") for i in range(10_000))})
    asked: list[str] = []

    def visible(name: str, owner: str | None) -> bool:
        asked.append(name)
        return True

    assert why_missing(snapshot, "suport-00042", visible, ["base"]) == "did you mean 'support-00042'?"
    assert len(asked) < 600
