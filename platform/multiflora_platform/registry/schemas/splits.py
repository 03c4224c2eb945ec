"""What is answered about aliases that are split by hand."""

from __future__ import annotations

import msgspec

from multiflora_platform.registry.schemas.rollouts import Observed


class SplitArm(msgspec.Struct, frozen=True, kw_only=True):
    """One version. percent: of the alias's users. is_worse: its share of failures is above the others', and not by
    chance."""

    version: int
    percent: int
    observed: Observed
    is_worse: bool


class SplitObserved(msgspec.Struct, frozen=True, kw_only=True):
    """Of the present server process, since the alias moved last. since: the first request; None: there was none. arms:
    none where the alias is not split, or a rollout watches it."""

    since: str | None
    arms: list[SplitArm]
