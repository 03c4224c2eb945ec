"""Tells a rollout how its two versions do, and runs copies of requests on the candidate when it asks for shadows."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_platform.engine import EngineHandle
from multiflora_platform.observability.observers import NewTokens, Observer
from multiflora_platform.registry.changes.rollout_observations import RequestOutcome
from multiflora_platform.registry.snapshot.snapshot import RolloutEntry
from multiflora_platform.web.openai_errors import ApiError

if TYPE_CHECKING:
    from multiflora_platform.registry.changes.rollout_pairs import Asked
    from multiflora_platform.registry.changes.rollouts import RolloutChanges
    from multiflora_platform.registry.shadow_runs import Shadows

# What a version can be blamed for. Overload, refused requests and an engine that is not there are not its doing; a
# deadline and a disconnect are the client's own.
_BLAMED = frozenset({"adapter_unavailable", "internal_error", "engine_dead"})


class RolloutWatch(Observer):
    """Of one prompt that came through an alias with a running rollout. version: the one that it was pinned to. engine:
    that answers it. asked: the prompt, for people."""

    def __init__(
        self,
        rollouts: RolloutChanges,
        shadows: Shadows,
        rollout: RolloutEntry,
        version: int,
        request: GenerateRequest,
        engine: EngineHandle,
        asked: Asked,
    ) -> None:
        self._rollouts = rollouts
        self._shadows = shadows
        self._rollout = rollout
        self._version = version
        self._request = request
        self._engine = engine
        self._asked = asked
        self._began = time.perf_counter()
        self._is_shadowed = (
            version == rollout.stable
            and request.params.num_sequences == 1
            and request.pooling is None
            and random.random() * 100 < rollout.shadow_percent
        )
        self._token_ids: list[int] = []

    def tokens(self, new: NewTokens) -> None:
        if self._is_shadowed:
            self._token_ids += new.token_ids

    def ended(self, outcome: str, error: ApiError | None) -> None:
        seconds = time.perf_counter() - self._began
        if outcome == "ok":
            self._rollouts.observe(self._rollout, self._version, RequestOutcome(True, seconds))
            if self._is_shadowed:
                self._shadows.submit(self._rollout, self._engine, self._request, self._asked, self._token_ids, seconds)
        elif error is not None and error.code in _BLAMED:
            refused = error.code == "adapter_unavailable"
            self._rollouts.observe(self._rollout, self._version, RequestOutcome(False, seconds, refused))
