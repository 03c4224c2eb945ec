"""What people ask of the engine about an adapter: load, unload, pin, unpin; and what its replicas hold.

Knows which digest a name means; the wire is engine_link.py's.
"""

from __future__ import annotations

from typing import Any

from multiflora_platform.registry.artifacts.collector import Artifacts
from multiflora_platform.registry.errors import VersionNotFound
from multiflora_platform.registry.serving.base_links import BaseLinks
from multiflora_platform.registry.serving.warm_up import WarmUp
from multiflora_platform.registry.snapshot.store import SnapshotStore
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.web.problems import Unavailable


class EngineCommands:
    """Without an engine of its base model, every command on an adapter is a 503."""

    def __init__(
        self,
        database: Database,
        snapshots: SnapshotStore,
        artifacts: Artifacts,
        warm_up: WarmUp,
        links: BaseLinks,
    ) -> None:
        self._database = database
        self._snapshots = snapshots
        self._artifacts = artifacts
        self._warm_up = warm_up
        self._links = links

    async def command(
        self, action: str, name: str, number: int | None, actor: str, replica: str | None = None
    ) -> dict[str, Any]:
        """action: load (with its warm-up prompts), unload, pin or unpin; of a version, or of the one that `model=name`
        means. replica: the only one that does it; None: all do."""
        resolved = self._snapshots.adapter(name).resolve(str(number) if number else "default", None)
        if resolved is None:
            wanted = f"version {number}" if number else "default version"
            raise VersionNotFound(f"Adapter {name!r} has no {wanted} that can be served.")
        engine = self._links[resolved.base_digest].engine
        if engine is None:
            raise Unavailable("No engine is running.")
        with self._artifacts.lease(resolved.digest):
            await engine.command(action, resolved.digest, replica)
            if action == "load":
                await self._warm_up.prompts(name, resolved.digest, resolved.base_digest, replica)

        async def work(change: Change) -> None:
            target = f"{name}@{resolved.version}"
            change.record(f"adapter.{action}", target, adapter=name, version=resolved.version, digest=resolved.digest)

        await self._database.write(actor, work)
        return {"adapter": name, "version": resolved.version, "digest": resolved.digest, "action": action}

    async def replicas(self, *, on_disk: bool = True) -> list[dict[str, Any]]:
        """Of all base models, the default one's first. on_disk: with the adapters that they do not hold."""
        snapshot = self._snapshots.snapshot
        engines = [(link.engine, link.base.digest) for link in self._links if link.engine is not None]
        shown = [await engine.replicas(snapshot.digests_on(base), on_disk=on_disk) for engine, base in engines]
        return [row for of_base in shown for row in of_base]
