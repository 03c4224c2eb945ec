"""Holds what is watched of a running server and closes each second of it. Used by routes and by admission."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from array import array
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_platform.insight.adapter_activity import AdapterActivity
from multiflora_platform.insight.alerts.alerts import Alerts
from multiflora_platform.insight.alerts.findings import (
    Finding,
    Thresholds,
    adapter_findings,
    drift_findings,
    engine_findings,
    memory_findings,
    traffic_findings,
)
from multiflora_platform.insight.cache_causes import cause_of, first_miss
from multiflora_platform.insight.drift.drift import Drift
from multiflora_platform.insight.earlier_lives import EarlierLives
from multiflora_platform.insight.gauges import gauges_of
from multiflora_platform.insight.kept_bodies import KeptBodies
from multiflora_platform.insight.kept_prompts import KeptPrompt, KeptPrompts, outline_of
from multiflora_platform.insight.logged_request import LoggedRequest, PromptFacts
from multiflora_platform.insight.mirrors.cache_feeds import CacheFeeds
from multiflora_platform.insight.request_log import RequestLog
from multiflora_platform.insight.savings import Savings
from multiflora_platform.insight.series import Series
from multiflora_platform.insight.views.activity import Alert, Point
from multiflora_platform.insight.views.misses import DriftItem
from multiflora_platform.observability.observers import NewTokens, Observer, PromptStart
from multiflora_platform.observability.profiles import Profiles
from multiflora_platform.settings import Settings
from multiflora_platform.web.openai_errors import ApiError

if TYPE_CHECKING:
    from multiflora_platform.engine import EngineHandle, NamedEngine

_log = logging.getLogger(__name__)
_TICK = 1.0
_DRIFT_TICKS = 10
_MOST_FAILURES = 4096


class Insight:
    """bases: whose engines are sampled; more may come and go.

    bodies: None where prompts and answers are not kept. drift: None where prompts are not compared. thresholds: of
    alerts; None: those of the settings' defaults. further_findings: other parts' of the server, for alerts, too.
    """

    def __init__(
        self,
        bases: Iterable[NamedEngine],
        bodies: KeptBodies | None = None,
        clock: Callable[[], float] = time.time,
        drift: Drift | None = None,
        thresholds: Thresholds | None = None,
        further_findings: Callable[[], Iterable[Finding]] = tuple,
    ) -> None:
        self.requests = RequestLog()
        self.prompts = KeptPrompts()
        self.bodies = bodies
        self.drift = drift
        self.series = Series()
        self.activity = AdapterActivity(clock)
        self.alerts = Alerts(clock)
        self.profiles = Profiles(bases, clock)
        self.savings: defaultdict[str, Savings] = defaultdict(Savings)
        """By the base model's digest: what a token takes differs from model to model."""
        self._thresholds = thresholds or Thresholds.of(Settings.model_validate({}))
        self._further_findings = further_findings
        self._drifting: list[Finding] = []
        self._is_ending = False
        self.cache_feeds = CacheFeeds(clock)
        self._earlier_lives = EarlierLives()
        self._bases = bases
        self._clock = clock
        # Adapters whose last request failed because they could not be loaded, with the engine's reason.
        self._load_failures: dict[str, str] = {}
        self._ticking: asyncio.Task[None] | None = None
        self._followers: set[asyncio.Queue[Point | None]] = set()

    def note_end(self, adapter: str | None, error: ApiError | None) -> None:
        """A prompt of the adapter ended."""
        if adapter is None:
            return
        self._load_failures.pop(adapter, None)
        if error is not None and error.code == "adapter_unavailable":
            self._load_failures[adapter] = error.message
            if len(self._load_failures) > _MOST_FAILURES:
                self._load_failures.pop(next(iter(self._load_failures)))

    def start(self) -> None:
        self._ticking = asyncio.create_task(self._tick())

    def stop(self) -> None:
        """Ends all followers, and looks for alerts no more: the server is going."""
        self._is_ending = True
        self.cache_feeds.stop()
        for queue in self._followers:
            queue.put_nowait(None)

    async def close(self) -> None:
        await self.profiles.close()
        if self._ticking is not None:
            self._ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticking

    def follow_prompt(
        self, facts: PromptFacts, request: GenerateRequest, body: msgspec.Struct, base: NamedEngine
    ) -> Sequence[Observer]:
        """What watches one prompt, which the base model's engine has as this request, of a client's request with this
        body."""
        engine = base.engine
        ids, documents = array("I", request.prompt_token_ids), tuple(request.documents)
        prompt = KeptPrompt(facts, ids, request.cache_salt, outline_of(body), documents)
        entry = self.requests.open(facts)
        entry.placement = engine.placement_of(facts.id)
        watches: list[Observer] = [_LifeWatch(self, prompt, entry, engine), entry, _SeriesWatch(self, facts, base.name)]
        if self.drift is not None and not request.background:
            watches.append(self.drift.follow(prompt, body, self.prompts))
        self.prompts.add(prompt)
        if self.bodies is not None:
            watches.append(self.bodies.open(facts.id, facts.tenant, body))
        return watches

    def note_life(self, prompt: KeptPrompt, entry: LoggedRequest, engine: EngineHandle) -> None:
        """An engine has computed the prompt; before, the one that dies first may hand it on to another."""
        self.note_placement(entry, engine)
        ready, prompt.life = engine.ready, engine.life_of(prompt.facts.id)
        if ready is not None and ready.block_size and prompt.life is not None:
            size = ready.block_size
            kv_digest = prompt.facts.kv_at(size - 1)
            salt = f"{prompt.facts.base_digest}{prompt.cache_salt}"
            entry.seen = self._earlier_lives.note(kv_digest, salt, prompt.ids, size, prompt.life)

    def note_placement(self, entry: LoggedRequest, engine: EngineHandle) -> None:
        """It may have been handed on since; a fleet forgets its oldest, the entry does not."""
        entry.placement = engine.placement_of(entry.facts.id) or entry.placement

    def cache_reason(self, engine: EngineHandle, request_ids: Iterable[str]) -> str | None:
        """Why the engine's cache had no more of a request's prompts: a word of cache_causes. None where it is not
        known."""
        ready = engine.ready
        if ready is None:
            return None
        entries = (self.requests.find(id) for id in request_ids)
        return first_miss(cause_of(entry, ready.block_size, self.prompts) for entry in entries if entry is not None)

    def look(self, *, at_drift: bool = True) -> list[Alert]:
        """What an operator should look at now, the worst first. at_drift: also whether prompts drift, anew; that takes
        longer than all else."""
        if at_drift:
            self._drifting = list(drift_findings(self.drift_items(of_all=True)))
        return self.alerts.of(
            [
                *engine_findings([one for base in self._bases for one in base.engine.replicas if not one.retired]),
                *adapter_findings(self._load_failures),
                *traffic_findings(list(self.series.seconds), self._thresholds),
                *memory_findings(list(self.series.minutes), self._thresholds),
                *self._drifting,
                *self._further_findings(),
            ]
        )

    def drift_items(self, tenant: str | None = None, *, of_all: bool = False) -> list[DriftItem]:
        """See Drift.items."""
        if self.drift is None:
            return []
        return self.drift.items(lambda base: self.savings[base].seconds_per_token(), tenant, of_all=of_all)

    async def points(self) -> AsyncGenerator[Point, None]:
        """Each second's, as it ends, until `stop`."""
        queue: asyncio.Queue[Point | None] = asyncio.Queue()
        self._followers.add(queue)
        try:
            while (point := await queue.get()) is not None:
                yield point
        finally:
            self._followers.discard(queue)

    async def _tick(self) -> None:
        due, is_failing = time.monotonic() + _TICK, False
        for ticks in itertools.count(1):
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += _TICK
            try:
                self._end_second(at_drift=ticks % _DRIFT_TICKS == 0)
            except Exception:
                if not is_failing:  # the next seconds' are the same, most likely
                    _log.exception("what a second was like could not be told; the next ones are tried")
                is_failing = True
            else:
                is_failing = False

    def _end_second(self, *, at_drift: bool) -> None:
        point = self.series.tick(self._clock(), gauges_of(self._bases))
        for queue in self._followers:
            queue.put_nowait(point)
        if not self._is_ending:
            self.look(at_drift=at_drift)


class _LifeWatch(Observer):
    """Notes which life of which engine computed a prompt, and why that one had it. Stands before the prompt's entry,
    which uses it."""

    def __init__(self, insight: Insight, prompt: KeptPrompt, entry: LoggedRequest, engine: EngineHandle) -> None:
        self._insight = insight
        self._prompt = prompt
        self._entry = entry
        self._engine = engine

    def started(self, start: PromptStart) -> None:
        self._insight.note_life(self._prompt, self._entry, self._engine)

    def ended(self, outcome: str, error: ApiError | None) -> None:
        self._insight.note_placement(self._entry, self._engine)


class _SeriesWatch(Observer):
    """Adds one prompt's events to the series and to its adapter's activity."""

    def __init__(self, insight: Insight, facts: PromptFacts, base: str) -> None:
        self._insight = insight
        self._facts = facts
        self._model = facts.adapter or base
        insight.activity.asked(facts.adapter, facts.at)

    def started(self, start: PromptStart) -> None:
        self._insight.series.prompt(self._facts.prompt_tokens, time.time() - self._facts.at, start.evicted_tokens)
        savings = self._insight.savings[self._facts.base_digest]
        savings.prefilled(self._facts, start.cached_tokens, start.device_seconds, start.evicted_tokens)

    def tokens(self, new: NewTokens) -> None:
        self._insight.series.generated(self._model, len(new.token_ids), new.since_last)
        self._insight.activity.wrote(self._facts.adapter, len(new.token_ids))

    def ended(self, outcome: str, error: ApiError | None) -> None:
        # A deadline is the client's own: missing it is no error of the server.
        is_error = error is not None and error.status >= 500 and error.code != "deadline_exceeded"
        seconds = time.time() - self._facts.at if outcome == "ok" else None
        self._insight.series.ended(self._model, seconds, is_error=is_error)
        self._insight.activity.ended(self._facts.adapter, seconds, is_error=is_error)
        self._insight.note_end(self._facts.adapter, error)
