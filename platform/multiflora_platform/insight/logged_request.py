"""One request as it is logged: who, what, how long each stage of its prompt took."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from multiflora_platform.engine import Placement
from multiflora_platform.insight.earlier_lives import SeenBefore
from multiflora_platform.insight.views.requests import RequestView, Stage
from multiflora_platform.observability.observers import NewTokens, Observer, PromptStart
from multiflora_platform.web.openai_errors import ApiError

_ABORTED = 499
_MINUTE = 60
_NOT_HERE = frozenset({"first_seen", "diverged", "other_adapter", "other_tenant", "other_salt"})


@dataclass(frozen=True)
class PromptFacts:
    """What is known of a prompt before the engine has it. The gateway fills it, for a refused request AccessLog."""

    id: str
    at: float
    """Unix seconds: the arrival, or the moment of the refusal."""
    tenant: str | None
    """None for admins, and where no valid key came."""
    model: str
    """As the client wrote it; "" where a refused request named none."""
    adapter: str | None
    """The registered name; None for the base and for refusals."""
    version: int
    """The adapter version's number; 0 for none."""
    digest: str | None
    """What the engine serves; None for the base and for refusals."""
    path: str
    stream: bool
    prompt_tokens: int
    """0 for a request that was refused before it was a prompt."""
    answer: str = ""
    """The answer's id without the letters before it, one for all prompts of a request."""
    kv_digest: str | None = None
    """What its KV is known by; None: it is the base's, or the request was refused."""
    activated_at: int = 0
    """The first token of which that is so (of an activated LoRA): the KV of those before is the base's."""
    key_id: str | None = None
    """Of the key that it came with; None where no valid key came."""
    base_digest: str = ""
    """Of the base model that answers; "" where the request was refused."""
    http_id: str = ""
    """What the HTTP answer's X-Request-ID says, which the client may have chosen; "" where the log's own id is that."""

    def kv_at(self, token: int) -> str | None:
        """What the KV of the block that ends with this token is known by; None: it is the base's."""
        return self.kv_digest if token >= self.activated_at else None


@dataclass
class Course:
    """What was last heard of some of the prompts."""

    change: int = 0
    at: float = 0.0
    """Unix seconds of that change."""
    running: int = 0

    def stamp(self, now: float) -> str:
        """Another one after each change; also each second while a prompt runs, and as long after the last change as
        what is told of the last minute goes on falling."""
        return f"{self.change}.{int(now if self.running else min(now, self.at + _MINUTE))}"


@dataclass
class Changes:
    """Counts what happens to a log's entries, so that a reader can ask for what is new."""

    last: int = 0
    all: Course = field(default_factory=Course)
    of_tenants: defaultdict[str | None, Course] = field(default_factory=lambda: defaultdict(Course))
    """None: of admins, and of requests without a valid key."""

    def next(self, tenant: str | None, running: int = 0) -> int:
        """Of an entry of this tenant. running: prompts more that run now, or fewer."""
        self.last += 1
        for course in (self.all, self.of_tenants[tenant]):
            course.change, course.at = self.last, time.time()
            course.running += running
        return self.last


@dataclass
class LoggedRequest(Observer):
    """One prompt while it runs and after, or a refusal and all that are equal to it. Times are Unix seconds."""

    facts: PromptFacts
    """Of the last one, where there are several."""
    changes: Changes = field(default_factory=Changes)
    on_end: Callable[[LoggedRequest], None] | None = None
    """What is told its end; the log fills it."""
    changed: int = 0
    """The number of its last change; a prompt that runs changes all the time."""
    count: int = 1
    """Requests of this entry; more than one only of refusals."""
    placement: Placement | None = None
    """Which engine has it, and why; Insight fills it, and again when it was handed on. None of a search with beams,
    whose steps go to the engines one by one, and of a refusal."""
    seen: SeenBefore = field(default_factory=SeenBefore)
    """What EarlierLives knows of its beginnings; Insight fills it before `started`."""
    # Of the engine's PromptStart: `started` fills them.
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    queue_seconds: float = 0.0
    load_seconds: float = 0.0
    miss_reason: str = ""
    first_at: float | None = None
    """When the prompt was computed, for `started` comes with the first token."""
    # Sums over the answers' deltas: `tokens` adds to them.
    completion_tokens: int = 0
    device_seconds: float = 0.0
    finish_reason: str | None = None
    """Of the answer that ended last; `answered` sets it."""
    # Of the end: `ended` fills them, RequestLog those of a refusal.
    ended_at: float | None = None
    status: int | None = None
    """The HTTP status; None while the prompt runs."""
    code: str | None = None
    """The error's, or client_disconnected; None without either."""

    def started(self, start: PromptStart) -> None:
        self.first_at = time.time()
        self.cached_tokens, self.miss_reason = start.cached_tokens, start.miss_reason
        self.cache_write_tokens = start.cache_write_tokens
        # The engine that runs now knows neither what it lost nor what other engines have, though it may know by now
        # that other adapters, tenants or salts have the same text.
        if start.miss_reason in _NOT_HERE:
            self.miss_reason = self.seen.reason(start.cached_tokens) or start.miss_reason
        self.queue_seconds, self.load_seconds = start.queued_seconds, start.load_seconds

    def tokens(self, new: NewTokens) -> None:
        self.completion_tokens += len(new.token_ids)
        self.device_seconds += new.device_seconds

    def answered(self, index: int, reason: str) -> None:
        self.finish_reason = reason

    def ended(self, outcome: str, error: ApiError | None) -> None:
        self.ended_at = time.time()
        if error is not None:
            self.status, self.code = error.status, error.code
        else:
            self.status = 200 if outcome == "ok" else _ABORTED
        if outcome == "abort":
            self.code = "client_disconnected"
        self.changed = self.changes.next(self.facts.tenant, running=-1)
        if self.on_end is not None:
            self.on_end(self)

    @property
    def id(self) -> str:
        return self.facts.id

    @property
    def at(self) -> float:
        return self.facts.at

    @property
    def tenant(self) -> str | None:
        return self.facts.tenant

    @property
    def model(self) -> str:
        return self.facts.model

    @property
    def answer(self) -> str:
        return self.facts.answer

    @property
    def http_id(self) -> str:
        return self.facts.http_id

    def view(self) -> RequestView:
        facts, first, end = self.facts, self.first_at, self.ended_at
        stages = list(self._stages())
        seconds = {stage.stage: stage.end - stage.start for stage in stages}
        return RequestView(
            id=facts.id,
            at=facts.at,
            tenant=facts.tenant,
            key_id=facts.key_id,
            model=facts.model,
            adapter=facts.adapter,
            version=facts.version or None,
            digest=facts.digest,
            path=facts.path,
            stream=facts.stream,
            status=self.status,
            code=self.code,
            prompt_tokens=facts.prompt_tokens,
            cached_tokens=self.cached_tokens,
            cache_write_tokens=self.cache_write_tokens,
            completion_tokens=self.completion_tokens,
            finish_reason=self.finish_reason,
            queue_seconds=seconds.get("queue"),
            load_seconds=seconds.get("load"),
            prefill_seconds=seconds.get("prefill"),
            decode_seconds=seconds.get("decode"),
            ttft=None if first is None else first - facts.at,
            total_seconds=None if end is None else end - facts.at,
            device_seconds=self.device_seconds,
            miss_reason=self.miss_reason,
            timeline=stages,
            count=self.count,
            placement=self.placement,
        )

    def _stages(self) -> Iterator[Stage]:
        """The adapter's load is the end of the wait; what follows until the first token is the prefill."""
        at, first = self.facts.at, self.first_at
        if self.ended_at == at:  # refused before it was a prompt
            return
        if first is None:
            yield Stage("queue", at, self.ended_at or time.time())
            return
        began = min(at + self.queue_seconds, first)
        load_began = max(at, began - self.load_seconds)
        yield Stage("queue", at, load_began)
        if self.load_seconds:
            yield Stage("load", load_began, began)
        yield Stage("prefill", began, first)
        yield Stage("decode", first, self.ended_at or time.time())
