"""The JSON bodies about rollouts, and what is answered."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from multiflora_platform.web.json_bodies import Body, Patch
from multiflora_platform.web.problems import InvalidRequest

Percent = Annotated[int, Meta(ge=0, le=99)]
ShadowPercent = Annotated[int, Meta(ge=0, le=100)]
Rate = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Ratio = Annotated[float, Meta(ge=1, le=1000)]
Samples = Annotated[int, Meta(ge=1, le=1000)]
Why = Annotated[str, Meta(max_length=1000, pattern=r"^[^\x00]*$")]
RolloutState = Literal["running", "promoted", "rolled_back", "aborted", "superseded"]
Steps = Annotated[list[Annotated[int, Meta(ge=1, le=99)]], Meta(max_length=20)]
BOUNDS = ("max_error_rate", "max_p95_seconds", "max_p95_ratio", "min_samples", "steps", "step_seconds")


class NewRollout(Body, frozen=True):
    """percent: of the alias's users that get the candidate. shadow_percent: of the others' requests, those that run on
    the candidate, too, while the client gets the stable version's answer. The bounds roll back by themselves;
    max_p95_ratio is to the stable version's P95. steps: in place of percent, shares that it goes through by itself;
    each needs min_samples requests and step_seconds within the bounds; after the last it is promoted. why: it is tried,
    for people."""

    candidate: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    percent: Percent = 0
    shadow_percent: ShadowPercent = 0
    max_error_rate: Rate = 0.05
    max_p95_seconds: Seconds | None = None
    max_p95_ratio: Ratio | None = None
    min_samples: Samples = 20
    steps: Steps = msgspec.field(default_factory=list)
    step_seconds: Seconds = 300.0
    why: Why = ""

    def check(self) -> NewRollout:
        """Itself; raises InvalidRequest."""
        check_steps(self.steps)
        if self.steps and self.percent:
            raise InvalidRequest("It begins with the first of its steps; leave percent out.", pointer="/percent")
        return self

    @property
    def first_percent(self) -> int:
        return self.steps[0] if self.steps else self.percent


class RolloutPatch(Patch, frozen=True):
    """A field that is absent stays; null lifts a bound, no steps: it goes no further by itself."""

    percent: Percent | UnsetType = UNSET
    shadow_percent: ShadowPercent | UnsetType = UNSET
    max_error_rate: Rate | UnsetType = UNSET
    max_p95_seconds: Seconds | UnsetType | None = UNSET
    max_p95_ratio: Ratio | UnsetType | None = UNSET
    min_samples: Samples | UnsetType = UNSET
    steps: Steps | UnsetType = UNSET
    step_seconds: Seconds | UnsetType = UNSET


def check_steps(steps: list[int]) -> None:
    """Raises InvalidRequest."""
    if any(later <= earlier for earlier, later in pairwise(steps)):
        raise InvalidRequest("Steps are shares that grow, such as [1, 10, 50]; 100 follows.", pointer="/steps")


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """Of one version's last thousand requests; seconds from arrival to end."""

    requests: int
    errors: int
    p50_seconds: float | None
    p95_seconds: float | None


class ShadowObserved(msgspec.Struct, frozen=True, kw_only=True):
    """skipped: not run because the engine was busy. exact, agreement: of answers that could be compared (greedy, or
    with a seed): those that are equal, and the mean share of leading tokens that are. The ratios are candidate/stable.
    """

    requests: int
    errors: int
    skipped: int
    compared: int
    exact: int
    agreement: float | None
    length_ratio: float | None
    latency_ratio: float | None


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """Observations are of all servers on the database while it runs, and as they were when it ended. On SQLite they are
    of the present process.

    why: in the words of who started it. reason: why it ended, or what it waits for.

    etag: a change may name this one as If-Match, or its alias's.
    """

    id: int
    adapter: str
    alias: str
    stable: int
    candidate: int
    percent: int
    shadow_percent: int
    max_error_rate: float
    max_p95_seconds: float | None
    max_p95_ratio: float | None
    min_samples: int
    steps: list[int]
    step_seconds: float
    state: RolloutState
    reason: str | None
    why: str
    created_by: str
    created_at: str
    ended_at: str | None
    stable_observed: Observed | None
    candidate_observed: Observed | None
    shadow_observed: ShadowObserved | None
    etag: str


class ArmTimeline(msgspec.Struct, frozen=True, kw_only=True):
    """Of one version's last thousand requests at each moment. error_rate, p95_seconds: None while there were none."""

    requests: list[int]
    error_rate: list[float | None]
    p95_seconds: list[float | None]


class RolloutTimeline(msgspec.Struct, frozen=True, kw_only=True):
    """at: moments since the start, Unix seconds; each list has one entry for each of them. The bounds: above which the
    candidate was rolled back at that moment, as shares and seconds."""

    at: list[float]
    stable: ArmTimeline
    candidate: ArmTimeline
    error_rate_bound: list[float]
    p95_seconds_bound: list[float | None]


class RolloutPair(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt that both versions answered, and not alike. messages or prompt: as an eval's case has them. tenant:
    whose request it was. beyond: fields of the request that shape the answer and that an eval cannot ask with.
    agreement: the share of leading tokens that are equal."""

    id: int
    at: str
    tenant: str | None
    messages: list[dict[str, Any]] | None
    prompt: str | None
    max_tokens: int
    beyond: list[str]
    stable: str
    candidate: str
    agreement: float


class RolloutPairPage(msgspec.Struct, frozen=True, kw_only=True):
    """kept: whether this server keeps texts (`--log-bodies`)."""

    kept: bool
    items: list[RolloutPair]
    next_page_token: str | None


class RolloutPage(msgspec.Struct, frozen=True, kw_only=True):
    items: list[Rollout]
    next_page_token: str | None
