"""The registry: its parts put together, opened and closed, and what a request asks of it from memory.

Changes go through the parts (`adapters`, `versions`, `intake`, `jobs`, `aliases`, `paths`, `engine`), one database
transaction each.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from multiflora_adapters.base_model import BaseModel
from multiflora_adapters.store import ArtifactStore
from multiflora_platform.registry.artifacts.collector import Artifacts
from multiflora_platform.registry.artifacts.leases import ArtifactLeases
from multiflora_platform.registry.artifacts.scratch import Scratch
from multiflora_platform.registry.changes.adapters import AdapterChanges
from multiflora_platform.registry.changes.aliases import AliasChanges
from multiflora_platform.registry.changes.jobs import JobChanges
from multiflora_platform.registry.changes.rollouts import RolloutChanges
from multiflora_platform.registry.changes.versions import VersionChanges
from multiflora_platform.registry.intake.evals import Answer
from multiflora_platform.registry.intake.import_job import Imports
from multiflora_platform.registry.intake.local_paths import LocalPaths
from multiflora_platform.registry.intake.recovery import FolderLock, Sweeper, recover
from multiflora_platform.registry.intake.submissions import VersionIntake
from multiflora_platform.registry.jobs.runner import JobRunner
from multiflora_platform.registry.serving.commands import EngineCommands
from multiflora_platform.registry.serving.engine_link import EngineLink
from multiflora_platform.registry.serving.probe import Prober
from multiflora_platform.registry.serving.warm_up import WarmUp
from multiflora_platform.registry.snapshot.snapshot import (
    AdapterEntry,
    Resolved,
    ServedAdapter,
    Snapshot,
)
from multiflora_platform.registry.snapshot.store import SnapshotStore
from multiflora_platform.registry.sources.resolver import Sources
from multiflora_platform.storage import migrations as migrate
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.outbox import Feed
from multiflora_platform.storage.outbox_follower import Follower

_log = logging.getLogger(__name__)


class Registry:
    """Make one with `await Registry.open(...)`; end it with `await registry.close()`."""

    def __init__(
        self,
        database: Database,
        store: ArtifactStore,
        base: BaseModel,
        max_rank: int,
        scratch: Scratch,
        sources: Sources,
        reserved_names: Collection[str],
    ) -> None:
        self.database = database
        self.feed = Feed(database)
        self.base = base
        self._snapshots = SnapshotStore(database, base.digest)
        self._scratch = scratch
        self._lock = FolderLock(scratch.root / ".lock")
        self._leases = ArtifactLeases(scratch.root / ".holds")
        self._artifacts = Artifacts(store, database, self._leases, self._forget)
        self.warm_up = WarmUp(self._snapshots, self._artifacts)
        self._imports = Imports(
            database, self._artifacts, scratch, sources, base, max_rank, self._snapshots.touch, self.warm_up
        )
        self._runner = JobRunner(database, self._imports.run, self._imports.fail)
        self._sweeper = Sweeper(database, self._artifacts, scratch)
        self.follower = Follower(database)
        self.follower.subscribe(self._snapshots.follow)
        self.follower.subscribe(self._runner.follow)
        self.adapters = AdapterChanges(
            database, self._snapshots, self._artifacts, self._runner, scratch, reserved_names
        )
        self.versions = VersionChanges(database, self._snapshots, self._artifacts)
        self.jobs = JobChanges(database, self._snapshots, self._runner, scratch, self._artifacts)
        self.intake = VersionIntake(
            database, self._snapshots, store, self._imports, self._runner, scratch, sources, base.digest, self.warm_up
        )
        self.aliases = AliasChanges(database, self._snapshots, self.warm_up)
        self.rollouts = RolloutChanges(database, self._snapshots, self.warm_up)
        self.engine = EngineCommands(database, self._snapshots, self._artifacts, self.warm_up)
        self.paths = LocalPaths(database, self._snapshots, self.adapters, self.intake, sources, scratch, base.digest)

    @classmethod
    async def open(
        cls,
        database_url: str,
        store: ArtifactStore,
        base: BaseModel,
        max_rank: int,
        prober: Prober | None = None,
        *,
        scratch: Path,
        source_roots: Sequence[Path] = (),
        max_upload_bytes: int = 4 << 30,
        reserved_names: Collection[str] = (),
    ) -> Registry:
        """Bring the schema up to date (SQLite), clean up after a crash, read everything, go on with unfinished jobs.

        scratch: the folder for files on their way in, of all processes on this data folder.
        source_roots: where file:// may read. reserved_names: the base model's names, which no adapter may take.
        Raises DatabaseOutdated, DatabaseUnusable.
        """
        await asyncio.to_thread(migrate.prepare, database_url)
        registry = cls(
            Database.open(database_url),
            store,
            base,
            max_rank,
            Scratch(scratch),
            Sources(tuple(source_roots), max_upload_bytes),
            reserved_names,
        )
        registry._imports.prober = prober
        if registry._lock.is_alone:
            await recover(registry.database, registry._scratch, registry._artifacts)
        registry._lock.admit_others()
        await registry.follower.start()
        await registry._snapshots.reload()
        registry._runner.start()
        registry._sweeper.start()
        return registry

    def attach(self, engine: EngineLink, answer: Answer | None = None) -> None:
        """An engine is there: commands, probes and replicas go to it. answer: asks it the evals of new versions."""
        self.engine.link = self.warm_up.link = engine
        self._imports.prober = engine.probe
        self._imports.answer = answer

    async def note(self, actor: str, action: str, target: str) -> None:
        """An event and an audit row of what somebody did to the engine rather than to data."""

        async def work(change: Change) -> None:
            change.record(action, target)

        await self.database.write(actor, work)

    async def close(self) -> None:
        self.stop_feeds()
        await self.rollouts.close()
        await self._sweeper.close()
        await self.intake.close()
        await self._runner.close()
        await self._artifacts.close()
        await self.follower.close()
        await self.database.close()
        self._leases.close()
        self._lock.close()

    def stop_feeds(self) -> None:
        """End everybody's live feed of events and jobs, so that a server that drains is not kept open by them."""
        self.feed.stop()
        self.jobs.stop()

    # What names mean: from memory, without an await.

    def resolve(self, model: str, user: str | None) -> Resolved | None:
        """`name`, `name@alias` or `name@3`. None: nothing that can be served has this name; never the base model."""
        return self._snapshots.snapshot.resolve(model, user)

    def served(self) -> list[ServedAdapter]:
        """Adapters that `model=name` reaches, by name."""
        return self._snapshots.snapshot.served

    def lease(self, digest: str) -> AbstractContextManager[None]:
        """Hold while a request runs: the artifact is not removed meanwhile, even if its adapter is deleted."""
        return self._artifacts.lease(digest)

    @property
    def snapshot(self) -> Snapshot:
        return self._snapshots.snapshot

    def adapter(self, name: str) -> AdapterEntry:
        """Raises AdapterNotFound."""
        return self._snapshots.adapter(name)

    async def _forget(self, digest: str) -> None:
        try:
            if self.engine.link is not None:
                await self.engine.link.forget(digest)
        except Exception as error:
            _log.warning("the engine could not forget %s: %s", digest, error)
