"""Facts of versions that an older server validated, which knew fewer of them: read again from the stored files."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

import msgspec
from sqlalchemy import select, update

from multiflora_adapters.base_model import BaseModel
from multiflora_adapters.facts import AdapterFacts, read_facts
from multiflora_adapters.report import AdapterError
from multiflora_adapters.store import ArtifactStore
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.tables import VersionRow

_log = logging.getLogger(__name__)
_NAMES = frozenset(AdapterFacts.__struct_fields__)


async def complete_facts(database: Database, store: ArtifactStore, base: BaseModel) -> None:
    """Of all versions that can be served on this base. What cannot be read is left as it is: the engine will say so."""
    ready = select(VersionRow.digest, VersionRow.facts).where(
        VersionRow.state == "ready", VersionRow.base_digest == base.digest, VersionRow.digest.is_not(None)
    )
    async with database.read() as session:
        found = (await session.execute(ready)).all()
    lacking = {digest for digest, facts in found if digest is not None and not (facts or {}).keys() >= _NAMES}
    for digest in lacking:
        try:
            facts = msgspec.to_builtins(await asyncio.to_thread(_read, store, digest, base))
        except (AdapterError, OSError) as problem:
            _log.warning("The facts of the adapter %s cannot be read: %s", digest[:12], problem)
            continue
        await database.write("system", partial(_write, base.digest, digest, facts))


def _read(store: ArtifactStore, digest: str, base: BaseModel) -> AdapterFacts:
    return read_facts(store.brought(digest), base)


async def _write(base_digest: str, digest: str, facts: dict[str, Any], change: Change) -> None:
    rows = update(VersionRow).where(
        VersionRow.digest == digest, VersionRow.base_digest == base_digest, VersionRow.state == "ready"
    )
    await change.session.execute(rows.values(facts=facts))
