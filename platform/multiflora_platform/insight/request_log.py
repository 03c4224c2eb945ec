"""The last requests, kept in memory: who, what, how long each stage of a prompt took; refusals, and how often."""

from __future__ import annotations

import secrets
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from multiflora_platform.engine import Placement
from multiflora_platform.insight.earlier_lives import SeenBefore
from multiflora_platform.insight.views.requests import RequestView, Stage
from multiflora_platform.observability.observers import NewTokens, Observer, PromptStart
from multiflora_platform.web.openai_errors import ApiError

_ABORTED = 499
_MOST_REFUSALS = 200
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

    def kv_at(self, token: int) -> str | None:
        """What the KV of the block that ends with this token is known by; None: it is the base's."""
        return self.kv_digest if token >= self.activated_at else None


@dataclass
class Changes:
    """Counts what happens to a log's entries, so that a reader can ask for what is new."""

    last: int = 0

    def next(self) -> int:
        self.last += 1
        return self.last


@dataclass
class LoggedRequest(Observer):
    """One prompt while it runs and after, or a refusal and all that are equal to it. Times are Unix seconds."""

    facts: PromptFacts
    """Of the last one, where there are several."""
    changes: Changes = field(default_factory=Changes)
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
        self.changed = self.changes.next()

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


class RequestLog:
    """At most `size` entries; the oldest are forgotten first. Refusals take at most a tenth of the usual size, equal
    ones together, so that a flood of them does not push the prompts out."""

    def __init__(self, size: int = 2000) -> None:
        self._size = size
        self._entries: OrderedDict[str, LoggedRequest] = OrderedDict()
        self._refusals: OrderedDict[tuple[object, ...], LoggedRequest] = OrderedDict()
        self._changes = Changes()
        self._name = secrets.token_hex(4)

    @property
    def cursor(self) -> str:
        """Names the log and its last change; for `changes_since` later."""
        return f"{self._name}.{self._changes.last}"

    def changes_since(self, cursor: str | None) -> int | None:
        """The number of the change that a cursor names; None for a cursor of another log, or none."""
        name, _, number = (cursor or "").partition(".")
        return int(number) if name == self._name and number.isdecimal() and len(number) < 20 else None

    def open(self, facts: PromptFacts) -> LoggedRequest:
        return self._add(LoggedRequest(facts, self._changes))

    def refuse(self, facts: PromptFacts, status: int, code: str) -> None:
        """A request that was no prompt yet. The entry keeps the first one's id, and has the last one's time."""
        kind = (facts.tenant, facts.key_id, facts.model, facts.path, status, code)
        entry = self._refusals.get(kind)
        if entry is None or entry.facts.id not in self._entries:
            id = facts.id if facts.id not in self._entries else uuid.uuid4().hex
            entry = self._add(LoggedRequest(replace(facts, id=id), self._changes, status=status, code=code, count=0))
            self._refusals[kind] = entry
            if len(self._refusals) > _MOST_REFUSALS:
                self._entries.pop(self._refusals.popitem(last=False)[1].facts.id, None)
        entry.facts = replace(facts, id=entry.facts.id)
        entry.ended_at, entry.count, entry.changed = facts.at, entry.count + 1, self._changes.next()
        self._entries.move_to_end(entry.facts.id)
        self._refusals.move_to_end(kind)

    def _add(self, entry: LoggedRequest) -> LoggedRequest:
        self._entries[entry.facts.id] = entry
        entry.changed = self._changes.next()
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)
        return entry

    def find(self, id: str) -> LoggedRequest | None:
        return self._entries.get(id)

    def newest(self, before: str | None = None) -> Iterator[LoggedRequest]:
        """Newest first; those older than the prompt `before`, or all when it is forgotten."""
        entries = reversed(self._entries.values())
        if before is not None and before in self._entries:
            for entry in entries:
                if entry.facts.id == before:
                    break
        yield from entries
