"""The registry: its parts put together, opened and closed, and what a request asks of it from memory.

Changes go through the parts (`adapters`, `versions`, `intake`, `jobs`, `aliases`, `paths`, `engine`), one database
transaction each.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from multiflora_adapters.base_model import BaseModel
from multiflora_adapters.storage.host_cache import HostCache
from multiflora_adapters.store import ArtifactStore
from multiflora_platform.registry.artifacts.collector import Artifacts
from multiflora_platform.registry.artifacts.scratch import Scratch
from multiflora_platform.registry.changes.adapters import AdapterChanges
from multiflora_platform.registry.changes.aliases import AliasChanges
from multiflora_platform.registry.changes.jobs import JobChanges
from multiflora_platform.registry.changes.rollout_pairs import KeptPairs
from multiflora_platform.registry.changes.rollout_views import RolloutViews
from multiflora_platform.registry.changes.rollouts import RolloutChanges
from multiflora_platform.registry.changes.splits import SplitWatch
from multiflora_platform.registry.changes.versions import VersionChanges
from multiflora_platform.registry.errors import AdapterExists
from multiflora_platform.registry.intake.first_use import FirstUse
from multiflora_platform.registry.intake.import_job import Imports
from multiflora_platform.registry.intake.local_paths import LocalPaths
from multiflora_platform.registry.intake.older_facts import complete_facts
from multiflora_platform.registry.intake.recovery import FolderLock, Sweeper, recover
from multiflora_platform.registry.intake.submissions import VersionIntake
from multiflora_platform.registry.intake.version_checks import VersionChecks
from multiflora_platform.registry.jobs.runner import JobRunner
from multiflora_platform.registry.serving.base_links import BaseLink, BaseLinks
from multiflora_platform.registry.serving.commands import EngineCommands
from multiflora_platform.registry.serving.warm_up import WarmUp
from multiflora_platform.registry.snapshot.missing_model import Visible, why_missing
from multiflora_platform.registry.snapshot.snapshot import (
    AdapterEntry,
    Resolved,
    ServedAdapter,
    Snapshot,
)
from multiflora_platform.registry.snapshot.store import SnapshotStore
from multiflora_platform.registry.sources.adapter_resolvers import FolderResolver, parse_resolvers
from multiflora_platform.registry.sources.resolver import Sources
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.outbox import Feed
from multiflora_platform.storage.outbox_follower import Follower

_log = logging.getLogger(__name__)


class Registry:
    """Make one with `await Registry.open(...)`; end it with `await registry.close()`.

    Complete from then on: no part of it is set later.
    """

    def __init__(
        self,
        database: Database,
        follower: Follower,
        store: ArtifactStore,
        default: BaseLink,
        max_rank: int,
        scratch: Scratch,
        sources: Sources,
        reserved_names: Collection[str],
        adapter_resolvers: Sequence[str],
        resolver_tenants: Collection[str],
        pairs: KeptPairs | None,
    ) -> None:
        self.database = database
        self.follower = follower
        self.feed = Feed(database)
        self.base = default.base
        self._links = links = BaseLinks(default)
        self._reserved = set(reserved_names)
        self._scratch = scratch
        self._lock = FolderLock(scratch.root / ".lock")
        self._snapshots = snapshots = SnapshotStore(database, links.digests)
        self._artifacts = artifacts = Artifacts(store, database, self._forget)
        self._sweeper = Sweeper(database, artifacts, scratch)
        warm_up = WarmUp(snapshots, artifacts, links)
        checks = VersionChecks(store, links, max_rank)
        imports = Imports(database, snapshots, artifacts, scratch, sources, checks, warm_up)
        self._runner = runner = JobRunner(
            database, imports.run, imports.fail, lambda job_id: store.origin is not None or scratch.has_job(job_id)
        )
        self.adapters = AdapterChanges(database, snapshots, artifacts, runner, scratch, self._reserved)
        self.versions = VersionChanges(database, snapshots, artifacts)
        self.jobs = JobChanges(database, snapshots, runner, scratch, artifacts)
        self.intake = VersionIntake(database, snapshots, store, checks, runner, scratch, sources, warm_up)
        self.aliases = AliasChanges(database, snapshots, warm_up)
        self.rollouts = RolloutChanges(database, snapshots, warm_up, pairs)
        self.splits = SplitWatch(database, snapshots)
        self.rollout_views = RolloutViews(database, snapshots, self.rollouts.seen, pairs)
        self.engine = EngineCommands(database, snapshots, artifacts, warm_up, links)
        self.paths = LocalPaths(database, snapshots, self.adapters, self.intake, sources, scratch, self.base.digest)
        self.first_use = self._resolving(adapter_resolvers, resolver_tenants, sources) if adapter_resolvers else None

    def _resolving(self, given: Sequence[str], tenants: Collection[str], sources: Sources) -> FirstUse:
        """A resolver's folder may be read for it alone, not by clients that name a path."""
        resolvers = parse_resolvers(given, sources)
        roots = tuple(one.root for one in resolvers if isinstance(one, FolderResolver))
        paths = LocalPaths(
            self.database,
            self._snapshots,
            self.adapters,
            self.intake,
            replace(sources, roots=roots),
            self._scratch,
            self.base.digest,
        )
        return FirstUse(self._snapshots, paths, resolvers, tenants)

    @classmethod
    async def open(
        cls,
        database: Database,
        follower: Follower,
        store: ArtifactStore,
        default: BaseLink,
        max_rank: int,
        *,
        scratch: Path,
        source_roots: Sequence[Path] = (),
        max_upload_bytes: int = 4 << 30,
        reserved_names: Collection[str] = (),
        adapter_resolvers: Sequence[str] = (),
        resolver_tenants: Collection[str] = (),
        pairs: KeptPairs | None = None,
    ) -> Registry:
        """Clean up after a crash, read everything, go on with unfinished jobs.

        database, follower: the caller's, who closes them after the registry; the follower has been started.
        scratch: the folder for files on their way in, of all processes on this data folder.
        default: the base model that is there from start to end; its engine need not run yet. reserved_names: its
        names, which no adapter may take. source_roots: where file:// may read.
        adapter_resolvers, resolver_tenants: where adapters lie that are registered at their first use, and whose
        requests may cause that. pairs: None where rollouts keep no texts.
        """
        registry = cls(
            database,
            follower,
            store,
            default,
            max_rank,
            Scratch(scratch),
            Sources(tuple(source_roots), max_upload_bytes),
            reserved_names,
            adapter_resolvers,
            resolver_tenants,
            pairs,
        )
        await registry._start()
        return registry

    async def _start(self) -> None:
        if self._lock.is_alone:
            await recover(self.database, self._scratch, self._artifacts)
            await complete_facts(self.database, self._artifacts.store, self.base)
        self._lock.admit_others()
        # Before the reload: what another process changes from now on is either read by it or told by the follower.
        self.follower.subscribe(self._snapshots.follow)
        self.follower.subscribe(self._runner.follow)
        if (pairs := self.rollouts.pairs) is not None:
            self.follower.subscribe(pairs.follow)
            self.database.before_commit.append(pairs.before_commit)
        await self._snapshots.load_all()
        self.rollouts.watch()
        self._runner.start()
        self._sweeper.start()

    def base_of(self, digest: str) -> BaseModel:
        """Raises Unavailable where it is not served any more."""
        return self._links[digest].base

    async def add_base(self, link: BaseLink, names: Collection[str]) -> None:
        """From now on its adapters are served, and new ones may belong to it. names: of the base model, which no
        adapter may take. Raises AdapterExists."""
        self.require_free(names)
        self._reserved.update(names)
        try:
            await complete_facts(self.database, self._artifacts.store, link.base)
            self._links.add(link)
            await self._snapshots.load_all()
        except BaseException:
            self._links.remove(link.base.digest)
            self._reserved.difference_update(names)
            raise

    async def remove_base(self, digest: str, names: Collection[str]) -> None:
        """Its adapters stay registered and are not served; its names are free again."""
        self._links.remove(digest)
        self._reserved.difference_update(names)
        await self._snapshots.load_all()

    def require_free(self, names: Collection[str]) -> None:
        """Raises AdapterExists for one that an adapter has."""
        taken = next((name for name in names if name in self._snapshots.snapshot.adapters), None)
        if taken is not None:
            raise AdapterExists(f"{taken!r} is an adapter's name; choose another for the base model.", pointer="/name")

    async def note(self, actor: str, action: str, target: str) -> None:
        """An event and an audit row of what an admin did to the engine rather than to data."""

        async def work(change: Change) -> None:
            change.record(action, target)

        await self.database.write(actor, work)

    async def close(self) -> None:
        self.stop_feeds()
        if self.first_use is not None:
            await self.first_use.close()
        await self.rollouts.close()
        await self.splits.close()
        await self._sweeper.close()
        await self.intake.close()
        await self._runner.close()
        await self._artifacts.close()
        self._lock.close()

    def stop_feeds(self) -> None:
        """End every client's live feed of events and jobs, so that a server that drains is not kept open by them."""
        self.feed.stop()
        self.jobs.stop()

    # What names mean: from memory, without an await.

    def resolve(self, model: str, user: str | None) -> Resolved | None:
        """`name`, `name@alias` or `name@3`. None: nothing that can be served has this name; never the base model."""
        resolved = self._snapshots.snapshot.resolve(model, user)
        return self.first_use.resolve(model, user) if resolved is None and self.first_use is not None else resolved

    def why_missing(self, model: str, visible: Visible, bases: Sequence[str]) -> str | None:
        """Which part of a name that `resolve` did not find is missing, and the nearest name that is there."""
        return why_missing(self._snapshots.snapshot, model, visible, bases)

    def served(self) -> list[ServedAdapter]:
        """Adapters that `model=name` reaches, by name."""
        return self._snapshots.snapshot.served

    def lease(self, digest: str) -> AbstractContextManager[None]:
        """Hold while a request runs: the artifact is not removed meanwhile, even if its adapter is deleted."""
        return self._artifacts.lease(digest)

    @property
    def artifact_cache(self) -> HostCache:
        """What the data folder has of artifacts."""
        return self._artifacts.store.cache

    @property
    def snapshot(self) -> Snapshot:
        return self._snapshots.snapshot

    @property
    def num_snapshots(self) -> int:
        return self._snapshots.num_snapshots

    def adapter(self, name: str) -> AdapterEntry:
        """Raises AdapterNotFound."""
        return self._snapshots.adapter(name)

    async def _forget(self, digest: str) -> None:
        for link in self._links:
            try:
                if link.engine is not None:
                    await link.engine.forget(digest)
            except Exception as error:
                _log.warning("the engine could not forget %s: %s", digest, error)
