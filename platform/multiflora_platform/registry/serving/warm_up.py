"""Before traffic moves to a version: its weights go to the host and into a slot, its prompts through the prefix cache.

Knows when and for how long; how a prompt is run is the gateway's (RunPrompts), how weights travel the engine's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from multiflora_platform.registry.artifacts.collector import Artifacts
from multiflora_platform.registry.errors import CommandFailed
from multiflora_platform.registry.serving.base_links import BaseLinks
from multiflora_platform.registry.snapshot.store import SnapshotStore
from multiflora_platform.web.problems import Unavailable

_log = logging.getLogger(__name__)
# An engine with every slot taken must not hold a move up for ever: then the alias moves cold.
WARM_UP_SECONDS = 30.0


class WarmUp:
    """Where a base model has no engine, run_prompts or warm_contexts, that part is skipped."""

    def __init__(
        self,
        snapshots: SnapshotStore,
        artifacts: Artifacts,
        links: BaseLinks,
    ) -> None:
        self._snapshots = snapshots
        self._artifacts = artifacts
        self._links = links

    async def before_move(self, name: str, alias: str, versions: Collection[int]) -> None:
        """Those versions that the alias does not serve yet. Raises CommandFailed when the engine cannot load one."""
        entry = self._snapshots.adapter(name)
        present = entry.aliases.get(alias)
        for version in versions:
            digest = entry.digests.get(version)
            if digest is not None and (present is None or version not in present.layout):
                await self.version(name, digest, entry.bases[version])

    async def version(self, name: str, digest: str, base_digest: str) -> None:
        """One version of an adapter. Raises CommandFailed. Skipped while no engine of its base model is ready."""
        engine = self._links[base_digest].engine if base_digest in self._links.digests else None
        if engine is None or not engine.is_ready:
            return
        try:
            async with asyncio.timeout(WARM_UP_SECONDS):
                with self._artifacts.lease(digest):
                    await engine.command("load", digest)
                    await self.prompts(name, digest, base_digest)
                    await self.contexts(name, digest, base_digest)
        except CommandFailed as error:
            raise type(error)(f"{error.detail} The alias was not moved.") from error
        except (TimeoutError, Unavailable) as error:
            _log.warning("%s is not warm: %s", name, str(error) or f"not within {WARM_UP_SECONDS:g} s")

    async def prompts(self, name: str, digest: str, base_digest: str, replica: str | None = None) -> None:
        """What fails is logged: a bad prompt must not keep a version from being served."""
        entry = self._snapshots.adapter(name)
        run_prompts = self._links[base_digest].run_prompts
        if run_prompts is None or not entry.warmup_prompts:
            return
        try:
            await run_prompts(digest, entry.warmup_prompts, entry.owner, replica)
        except Exception as error:
            _log.warning("a warm-up prompt of %s failed: %s", name, error)

    async def contexts(self, name: str, digest: str, base_digest: str) -> None:
        """What fails is logged, and computed once the version is served."""
        warm_contexts = self._links[base_digest].warm_contexts
        if warm_contexts is None:
            return
        try:
            await warm_contexts(name, digest)
        except Exception as error:
            _log.warning("a context of %s failed: %s", name, error)
