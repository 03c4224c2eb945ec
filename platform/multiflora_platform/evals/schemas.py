"""What the routes about evals read and answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from multiflora_platform.evals.checks import EvalCase
from multiflora_platform.web.json_bodies import Body, Patch

Score = Annotated[float, Meta(ge=0, le=1)]
Description = Annotated[str, Meta(max_length=4000, pattern=r"^[^\x00]*$")]
AliasNames = Annotated[list[Annotated[str, Meta(min_length=1, max_length=64)]], Meta(max_length=64)]
Number = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Model = Annotated[str, Meta(min_length=1, max_length=200)]
EvalRunState = Literal["queued", "running", "completed", "cancelled", "failed"]
Outcome = Literal["passed", "failed", "error"]


class EvalSetBody(Body, frozen=True):
    """cases: prompts with their checks; other ones than before make a new version of the set. min_score: the share of
    prompts that a version must have passed before it is promoted to one of `aliases`; null: it gates nothing."""

    cases: list[EvalCase]
    description: Description = ""
    min_score: Score | None = None
    aliases: AliasNames = msgspec.field(default_factory=lambda: ["default"])


class EvalSetPatch(Patch, frozen=True):
    """A field that is absent stays; null lifts min_score."""

    description: Description | UnsetType = UNSET
    min_score: Score | UnsetType | None = UNSET
    aliases: AliasNames | UnsetType = UNSET


class MixPartBody(Body, frozen=True, omit_defaults=True):
    """As in requests: an adapter's name (`name@3`, too) and its weight."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    weight: float = 1.0


class EvalRunBody(Body, frozen=True):
    """What is asked: `version`, one of the adapter's own; or `model`, as requests name it; or `adapters`, a mix on
    their base model (combination, density, combination_seed: as in requests). None of them: the version that
    `default` has. set_version: none: the newest."""

    version: Number | None = None
    model: Model | None = None
    adapters: Annotated[list[MixPartBody], Meta(min_length=1, max_length=16)] | None = None
    combination: Annotated[str, Meta(max_length=64)] | None = None
    density: float | None = None
    combination_seed: int | None = None
    set_version: Number | None = None

    @property
    def mix(self) -> dict[str, Any]:
        """The fields of a request that say what is combined; {} where nothing is."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        wanted = ("adapters", "combination", "density", "combination_seed")
        return {name: fields[name] for name in wanted if fields[name] is not None} if self.adapters else {}


class EvalSet(msgspec.Struct, frozen=True, kw_only=True):
    """cases: of `version`. latest_version: the set's newest."""

    adapter: str
    name: str
    version: int
    latest_version: int
    description: str
    min_score: float | None
    aliases: list[str]
    cases: list[EvalCase]
    created_by: str
    created_at: str
    updated_at: str
    etag: str


class EvalSetSummary(msgspec.Struct, frozen=True, kw_only=True):
    """version: the newest; cases: how many prompts it holds."""

    name: str
    version: int
    description: str
    min_score: float | None
    aliases: list[str]
    cases: int
    updated_at: str


class EvalSetPage(msgspec.Struct, frozen=True, kw_only=True):
    items: list[EvalSetSummary]
    next_page_token: str | None


class EvalRun(msgspec.Struct, frozen=True, kw_only=True):
    """model: what was asked, as requests name it; mix: the parts, of a mix. version: the number, of the adapter's own
    version. score: passed / total, once it is completed. A run whose server was stopped is queued until one resumes it.
    """

    id: int
    adapter: str
    eval: str
    eval_version: int
    model: str
    mix: dict[str, Any]
    version: int | None
    digest: str | None
    state: EvalRunState
    total: int
    passed: int
    failed: int
    errors: int
    score: float | None
    reason: str | None
    created_by: str
    created_at: str
    started_at: str | None
    ended_at: str | None


class EvalRunPage(msgspec.Struct, frozen=True, kw_only=True):
    items: list[EvalRun]
    next_page_token: str | None


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """detail: why it did not pass; of a judge, its grade."""

    type: str
    passed: bool
    detail: str


class EvalResult(msgspec.Struct, frozen=True, kw_only=True):
    """Of one prompt. outcome: error where there was no answer, or no verdict on it."""

    position: int
    name: str | None
    question: str
    outcome: Outcome
    answer: str | None
    checks: list[CheckResult]
    seconds: float | None
    tokens: int | None


class EvalRunResults(msgspec.Struct, frozen=True, kw_only=True):
    """items: of the prompts that are through, in the set's order."""

    run: EvalRun
    items: list[EvalResult]


class EvalMatrix(msgspec.Struct, frozen=True, kw_only=True):
    """runs: the newest completed one of each version, mix or other model on this version of the set. rows: for each
    prompt, the outcome in each run, in their order; null where the run has none."""

    eval: str
    eval_version: int
    min_score: float | None
    runs: list[EvalRun]
    rows: list[EvalMatrixRow]


class EvalMatrixRow(msgspec.Struct, frozen=True, kw_only=True):
    position: int
    name: str | None
    question: str
    outcomes: list[Outcome | None]


class ComparedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    outcome: Outcome
    answer: str | None
    checks: list[CheckResult]


class ComparedCase(msgspec.Struct, frozen=True, kw_only=True):
    """change: of `right` against `left`; new: only one of them was asked this prompt."""

    name: str | None
    question: str
    change: Literal["better", "worse", "same", "new"]
    left: ComparedAnswer | None
    right: ComparedAnswer | None


class EvalComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Prompt by prompt; prompts are the same where text and checks are, whichever version of the set they stand in."""

    left: EvalRun
    right: EvalRun
    better: int
    worse: int
    same: int
    items: list[ComparedCase]
