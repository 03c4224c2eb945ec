"""What an adapter's entry holds, and how often the database is asked for it."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event
from tests.platform.registry.house import House, adapter_files

from multiflora_platform.registry.snapshot.loader import load_entries

pytestmark = pytest.mark.sqlite


async def test_each_table_is_asked_once(house: House) -> None:
    await house.adapter("a", 1, 2)
    broken = {**adapter_files(3), "adapter_model.safetensors": b"broken"}
    assert (await house.upload("a", broken)).status_code == 422
    assert (await house.admin.delete("/adapters/a/versions/2")).is_success
    asked: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    async with house.database.read() as session:
        event.listen(house.database.engine.sync_engine, "before_cursor_execute", note)
        (entry,) = await load_entries(session, [house.base.digest])
        (elsewhere,) = await load_entries(session, ["another"])
    assert len([statement for statement in asked if statement.startswith("SELECT")]) == 2 * 4
    assert (list(entry.digests), list(entry.shapes), entry.bases) == ([1], [1], {1: house.base.digest})
    assert entry.unserved == {2: "archived", 3: "rejected"}
    assert elsewhere.unserved == {1: "of another base model", 2: "archived", 3: "rejected"}
    assert elsewhere.digests == {}
