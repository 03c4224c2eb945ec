"""The last prompts that were answered or refused by the engine, kept in memory: who, what, how long each stage took."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from multiflora_platform.insight.views import RequestView, Stage
from multiflora_platform.observability.observers import NewTokens, Observer, PromptStart
from multiflora_platform.web.openai_errors import ApiError

_ABORTED = 499


@dataclass(frozen=True)
class PromptFacts:
    """What is known of a prompt before the engine has it. at: arrival, Unix seconds. version: 0 for none."""

    id: str
    at: float
    tenant: str | None
    model: str
    adapter: str | None
    version: int
    digest: str | None
    path: str
    stream: bool
    prompt_tokens: int


@dataclass
class LoggedRequest(Observer):
    """One prompt while it runs and after. Times are Unix seconds."""

    facts: PromptFacts
    cached_tokens: int = 0
    completion_tokens: int = 0
    device_seconds: float = 0.0
    queue_seconds: float = 0.0
    load_seconds: float = 0.0
    miss_reason: str = ""
    first_at: float | None = None
    ended_at: float | None = None
    status: int | None = None
    code: str | None = None
    finish_reason: str | None = None

    def started(self, start: PromptStart) -> None:
        self.first_at = time.time()
        self.cached_tokens, self.miss_reason = start.cached_tokens, start.miss_reason
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

    def view(self) -> RequestView:
        facts, first, end = self.facts, self.first_at, self.ended_at
        stages = list(self._stages())
        seconds = {stage.stage: stage.end - stage.start for stage in stages}
        return RequestView(
            id=facts.id,
            at=facts.at,
            tenant=facts.tenant,
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
        )

    def _stages(self) -> Iterator[Stage]:
        """The adapter's load is the end of the wait; what follows until the first token is the prefill."""
        at, first = self.facts.at, self.first_at
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
    """At most `size` prompts; the oldest are forgotten first."""

    def __init__(self, size: int = 2000) -> None:
        self._size = size
        self._entries: OrderedDict[str, LoggedRequest] = OrderedDict()

    def open(self, facts: PromptFacts) -> LoggedRequest:
        entry = self._entries[facts.id] = LoggedRequest(facts)
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
