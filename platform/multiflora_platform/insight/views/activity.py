"""What the server did over time: series of points, the use of adapters, alerts."""

from __future__ import annotations

import msgspec


class ReplicaMemory(msgspec.Struct, frozen=True):
    """What one engine has of memory, in bytes. On a GPU weights, kv and adapters are the device's and kv is all blocks;
    on a CPU they are parts of the process, and kv is the blocks that were used by now. copies: of KV and adapters, in
    host memory. rest: of its processes, what is none of these; None while there is no process."""

    weights: int
    kv: int
    adapters: int
    copies: int
    rest: int | None


class BaseGauges(msgspec.Struct, frozen=True):
    """The engines of one base model. engine_bytes: that their processes have now; None while there is none. memory: by
    replica."""

    running: int
    waiting: int
    kv_blocks: int
    kv_blocks_used: int
    engine_bytes: int | None
    device_bytes: int | None
    memory: dict[str, ReplicaMemory]


class EndedRequests(msgspec.Struct, frozen=True):
    """Of one model, in an interval. p95_seconds: from arrival to end, of whole answers; None for none."""

    requests: int
    errors: int
    p95_seconds: float | None


class Point(msgspec.Struct, frozen=True):
    """One interval. Rates are per second; quantiles are None when nothing happened. by_model: tokens per second.
    by_base: of each base model whose engines run; the other numbers are those of all of them together."""

    at: float
    tokens_per_second: float
    prompt_tokens_per_second: float
    ttft_p50: float | None
    ttft_p95: float | None
    itl_p50: float | None
    itl_p95: float | None
    running: int
    waiting: int
    kv_use: float
    """Of the base model whose cache is the fullest."""
    cache_hit_rate: float | None
    requests: int
    errors: int
    host_bytes: int
    """Of the gateway and the engines together: what their processes have now."""
    gateway_bytes: int
    engine_bytes: int | None
    """None while there is none."""
    device_bytes: int | None
    by_model: dict[str, float]
    ended_by_model: dict[str, EndedRequests]
    evicted_tokens_per_second: float
    """Of the prompts' tokens, those computed again because their KV had been evicted."""
    cache_bytes: int
    """Of host_bytes, what caches hold by now, each within a bound of its own."""
    by_base: dict[str, BaseGauges]


class SeriesAnswer(msgspec.Struct, frozen=True):
    """points: oldest first, one for each interval (seconds) that the server was up."""

    interval: int
    points: list[Point]


class AdapterUse(msgspec.Struct, frozen=True):
    """Of one adapter (None: the base). requests: since the answer's `since`, of all servers on the database, as in the
    usage, and by_day of each of its days. The rest is this server's own, since its start: p95_seconds is about the last
    timed_answers whole answers, error_share (of servers' errors) about the last ended_requests."""

    adapter: str | None
    requests: int
    by_day: list[int]
    last_day: str | None
    """UTC, with requests; None for none since `since`."""
    last_used_at: float | None
    timed_answers: int
    p95_seconds: float | None
    ended_requests: int
    error_share: float | None
    tokens_per_second: float


class ActivityAnswer(msgspec.Struct, frozen=True):
    """since: the first day (UTC) whose requests are counted. speed_seconds: that tokens_per_second is the mean of."""

    since: str
    days: int
    speed_seconds: int
    items: list[AdapterUse]


class Alert(msgspec.Struct, frozen=True):
    """severity: warning or error. link: a path of the admin UI."""

    id: str
    severity: str
    title: str
    detail: str
    next_step: str
    since: float
    link: str


class AlertPage(msgspec.Struct, frozen=True):
    items: list[Alert]
