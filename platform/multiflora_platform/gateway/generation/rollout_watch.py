"""Tells a rollout, or an alias that is split by hand, how its versions do, and runs copies of requests on a candidate
when its rollout asks for shadows."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_platform.engine import EngineHandle
from multiflora_platform.observability.observers import NewTokens, Observer
from multiflora_platform.registry.changes.rollout_observations import RequestOutcome
from multiflora_platform.registry.snapshot.snapshot import RolloutEntry, SplitEntry
from multiflora_platform.web.openai_errors import ApiError

if TYPE_CHECKING:
    from multiflora_platform.registry.changes.rollout_pairs import Asked
    from multiflora_platform.registry.changes.rollouts import RolloutChanges
    from multiflora_platform.registry.changes.splits import SplitWatch
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
        if (judged := _judged(outcome, error, seconds)) is not None:
            self._rollouts.observe(self._rollout, self._version, judged)
        if outcome == "ok" and self._is_shadowed:
            self._shadows.submit(self._rollout, self._engine, self._request, self._asked, self._token_ids, seconds)


class SplitObserver(Observer):
    """Of one prompt that came through an alias that is split by hand. version: the one that it was pinned to."""

    def __init__(self, splits: SplitWatch, split: SplitEntry, version: int) -> None:
        self._splits = splits
        self._split = split
        self._version = version
        self._began = time.perf_counter()

    def ended(self, outcome: str, error: ApiError | None) -> None:
        if (judged := _judged(outcome, error, time.perf_counter() - self._began)) is not None:
            self._splits.observe(self._split, self._version, judged)


def _judged(outcome: str, error: ApiError | None, seconds: float) -> RequestOutcome | None:
    """None: it says nothing about the version."""
    if outcome == "ok":
        return RequestOutcome(True, seconds)
    if error is None or error.code not in _BLAMED:
        return None
    return RequestOutcome(False, seconds, refused=error.code == "adapter_unavailable")
