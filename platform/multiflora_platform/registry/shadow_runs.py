"""Shadow runs: a request that the stable version has answered runs on the candidate, too; no client gets that answer.

They run at the lowest priority, few at a time, and not at all while requests wait: live traffic must not feel them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_platform.engine import EngineHandle
from multiflora_platform.engine_requests import copy_request
from multiflora_platform.registry.changes.rollout_pairs import Asked
from multiflora_platform.registry.changes.rollouts import RolloutChanges
from multiflora_platform.registry.snapshot.snapshot import RolloutEntry

_log = logging.getLogger(__name__)
MAX_AT_ONCE = 2
_SECONDS = 60.0
_LAST = 2**31 - 1  # of all priorities
_KV_SHARE = 0.2


class _Refused(Exception):
    """The engine could not load the candidate."""


class Shadows:
    """`submit` never waits; `close` ends what runs."""

    def __init__(self, rollouts: RolloutChanges, lease: Callable[[str], AbstractContextManager[None]]) -> None:
        """lease(digest): keeps the artifact while a run needs it."""
        self._rollouts = rollouts
        self._lease = lease
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(
        self,
        rollout: RolloutEntry,
        engine: EngineHandle,
        request: GenerateRequest,
        asked: Asked,
        token_ids: Sequence[int],
        seconds: float,
    ) -> None:
        """engine, request, asked: as the stable version got it. token_ids, seconds: its answer, and how long that
        took."""
        if len(self._tasks) >= MAX_AT_ONCE or engine.ready is None or engine.stats.waiting:
            self._rollouts.observations(rollout).shadow.skipped += 1
            return
        task = asyncio.create_task(self._compare(rollout, engine, request, asked, list(token_ids), seconds))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _compare(
        self,
        rollout: RolloutEntry,
        engine: EngineHandle,
        request: GenerateRequest,
        asked: Asked,
        token_ids: list[int],
        seconds: float,
    ) -> None:
        shadow = self._rollouts.observations(rollout).shadow
        began = time.perf_counter()
        try:
            found = await self._run(rollout, engine, request)
        except _Refused:
            self._rollouts.observe_shadow_refusal(rollout)
            shadow.errors += 1
        except Exception as error:
            _log.debug("a shadow run failed: %s", error)
            shadow.errors += 1
        else:
            # What the stable version left unsaid because of a stop string, of which the engine knows nothing.
            found = found[: len(token_ids)] if request.params.stop else found
            is_repeatable = request.params.is_greedy or request.params.seed is not None
            shadow.compare(token_ids, found, (seconds, time.perf_counter() - began), is_repeatable)
            if is_repeatable and found != token_ids:
                self._rollouts.observe_pair(rollout, asked, token_ids, found)

    async def _run(self, rollout: RolloutEntry, engine: EngineHandle, request: GenerateRequest) -> list[int]:
        """The candidate's tokens. Raises _Refused, EngineUnavailable, RuntimeError."""
        digest = self._rollouts.candidate_digest(rollout)
        if digest is None:
            raise RuntimeError("the candidate is gone")
        copy = copy_request(
            request,
            adapter_digest=digest,
            cache_owner="shadow",
            cache_share=_KV_SHARE,
            priority=_LAST,
            background=True,
            deadline=time.time() + _SECONDS,
            arrival_time=time.time(),
        )
        with self._lease(digest), contextlib.closing(engine.generate(copy)) as stream:
            found: list[int] = []
            async for delta in stream:
                if delta.failure is not None:
                    raise _Refused if delta.failure.code == "adapter_unavailable" else RuntimeError(delta.failure.code)
                found += delta.token_ids
            return found
