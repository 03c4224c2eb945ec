"""Before traffic moves to a version: its weights go to the host and into a slot, its prompts through the prefix cache.

Knows when and for how long; how a prompt is run is the gateway's (RunPrompts), how weights travel the engine's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence

from multiflora_platform.registry.artifacts.collector import Artifacts
from multiflora_platform.registry.errors import CommandFailed
from multiflora_platform.registry.schemas.fields import Warmup
from multiflora_platform.registry.serving.engine_link import EngineLink
from multiflora_platform.registry.snapshot.store import SnapshotStore
from multiflora_platform.web.problems import Unavailable

_log = logging.getLogger(__name__)
# An engine with every slot taken must not hold a move up for ever: then the alias moves cold.
WARM_UP_SECONDS = 30.0

# Runs prompts on the version with this digest, for the tenants that they name or else the owner's cache (None: the
# admins'); the last one is the only replica that does it, None: all do.
RunPrompts = Callable[[str, Sequence[Warmup], str | None, str | None], Awaitable[None]]
# Computes the contexts of the adapter with this name on the version with this digest.
WarmContexts = Callable[[str, str], Awaitable[None]]


class WarmUp:
    """Without an engine, run_prompts or warm_contexts, that part is skipped."""

    def __init__(
        self,
        snapshots: SnapshotStore,
        artifacts: Artifacts,
        engine: EngineLink | None,
        run_prompts: RunPrompts | None,
        warm_contexts: WarmContexts | None = None,
    ) -> None:
        self._snapshots = snapshots
        self._artifacts = artifacts
        self._engine = engine
        self._run_prompts = run_prompts
        self._warm_contexts = warm_contexts

    async def before_move(self, name: str, alias: str, versions: Collection[int]) -> None:
        """Those versions that the alias does not serve yet. Raises CommandFailed when the engine cannot load one."""
        entry = self._snapshots.adapter(name)
        present = entry.aliases.get(alias)
        for version in versions:
            digest = entry.digests.get(version)
            if digest is not None and (present is None or version not in present.layout):
                await self.version(name, digest)

    async def version(self, name: str, digest: str) -> None:
        """One version of an adapter. Raises CommandFailed. Skipped while no engine is ready."""
        if self._engine is None or not self._engine.is_ready:
            return
        try:
            async with asyncio.timeout(WARM_UP_SECONDS):
                with self._artifacts.lease(digest):
                    await self._engine.command("load", digest)
                    await self.prompts(name, digest)
                    await self.contexts(name, digest)
        except CommandFailed as error:
            raise type(error)(f"{error.detail} The alias was not moved.") from error
        except (TimeoutError, Unavailable) as error:
            _log.warning("%s is not warm: %s", name, str(error) or f"not within {WARM_UP_SECONDS:g} s")

    async def prompts(self, name: str, digest: str, replica: str | None = None) -> None:
        """What fails is logged: a bad prompt must not keep a version from being served."""
        entry = self._snapshots.adapter(name)
        if self._run_prompts is None or not entry.warmup_prompts:
            return
        try:
            await self._run_prompts(digest, entry.warmup_prompts, entry.owner, replica)
        except Exception as error:
            _log.warning("a warm-up prompt of %s failed: %s", name, error)

    async def contexts(self, name: str, digest: str) -> None:
        """What fails is logged, and computed once the version is served."""
        if self._warm_contexts is None:
            return
        try:
            await self._warm_contexts(name, digest)
        except Exception as error:
            _log.warning("a context of %s failed: %s", name, error)
