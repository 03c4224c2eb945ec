"""What `multiflora top` shows, made out of a server's answers. Knows neither the server nor the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from multiflora_platform.insight.series import quantile

WINDOW_SECONDS = 60
RATE_SECONDS = 10

Row = Mapping[str, Any]
"""One item of an answer, as its JSON has it."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """None: the server does not tell it this key, or not now."""

    url: str
    at: float
    """When they came, in Unix seconds of this machine."""
    version: str | None = None
    started_at: float | None = None
    """Of the gateway's process, in Unix seconds of the server."""
    models: Sequence[Row] | None = None
    replicas: Sequence[Row] | None = None
    points: Sequence[Row] | None = None
    """Of the series: the last RATE_SECONDS, oldest first."""
    alerts: Sequence[Row] | None = None
    requests: Sequence[Row] | None = None
    """Those that run, and those that ended in the last WINDOW_SECONDS."""

    @property
    def now(self) -> float:
        """By the server's clock, where it tells the time; the times of its rows are by that."""
        return float(self.points[-1]["at"]) if self.points else self.at


@dataclass(frozen=True)
class AdapterLoad:
    """An adapter, or a base model, in the last WINDOW_SECONDS: requests that ended, the tokens that they generated,
    server's errors among them, and the p95 of how long a whole answer took."""

    name: str
    running: int
    requests: int
    tokens: int
    errors: int
    p95_seconds: float | None


@dataclass(frozen=True)
class LiveRequest:
    """stage: queue, load, prefill or decode. tokens: generated so far."""

    id: str
    name: str
    tenant: str | None
    stage: str
    seconds: float
    prompt_tokens: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """None: not told. Rates are means of the last RATE_SECONDS; quantiles and the hit rate are of the last
    WINDOW_SECONDS, and None too when nothing happened. KV blocks are those of all engines."""

    url: str
    at: float
    version: str | None
    up_seconds: float | None
    models: list[dict[str, str]] | None
    replicas: list[dict[str, str]] | None
    requests_per_second: float | None
    errors_per_second: float | None
    tokens_per_second: float | None
    running: int | None
    waiting: int | None
    ttft_p50: float | None
    ttft_p95: float | None
    kv_blocks_used: int | None
    kv_blocks: int | None
    cache_hit_rate: float | None
    gateway_bytes: int | None
    engine_bytes: int | None
    alerts: list[dict[str, str]] | None
    adapters: list[AdapterLoad] | None
    requests: list[LiveRequest] | None


def numbers_of(answers: Answers) -> Numbers:
    points, requests, replicas = answers.points or [], answers.requests, answers.replicas
    last = points[-1] if points else {}
    prompts = [row for row in requests or () if _is_prompt(row)]
    begun = [row for row in prompts if _first_token_at(row) > answers.now - WINDOW_SECONDS]
    ttft = sorted(row["ttft"] for row in begun)
    bases = last.get("by_base")
    return Numbers(
        url=answers.url,
        at=answers.now,
        version=answers.version,
        up_seconds=None if answers.started_at is None else max(0.0, answers.now - answers.started_at),
        models=_only(answers.models, "name", "state"),
        replicas=_only(replicas, "id", "group", "state"),
        requests_per_second=_mean(points, "requests"),
        errors_per_second=_mean(points, "errors"),
        tokens_per_second=_mean(points, "tokens_per_second"),
        running=None if replicas is None else sum(row["running"] for row in replicas),
        waiting=None if replicas is None else sum(row["waiting"] for row in replicas),
        ttft_p50=quantile(ttft, 0.5),
        ttft_p95=quantile(ttft, 0.95),
        kv_blocks_used=_sum(bases, "kv_blocks_used"),
        kv_blocks=_sum(bases, "kv_blocks"),
        cache_hit_rate=_share(begun, "cached_tokens", "prompt_tokens"),
        gateway_bytes=last.get("gateway_bytes"),
        engine_bytes=last.get("engine_bytes"),
        alerts=_only(answers.alerts, "id", "severity", "title", "next_step"),
        adapters=None if requests is None else _loads(prompts),
        requests=None if requests is None else _running(prompts, answers.now),
    )


def has_ended(row: Row) -> bool:
    return row["status"] is not None


def ended_at(row: Row) -> float:
    """Unix seconds of the server, of a request that has ended."""
    return float(row["at"] + row["total_seconds"])


def _is_prompt(row: Row) -> bool:
    """Refusals are rows, too."""
    return bool(row["prompt_tokens"])


def _first_token_at(row: Row) -> float:
    """0 while there is none."""
    return 0.0 if row["ttft"] is None else float(row["at"] + row["ttft"])


def _only(rows: Sequence[Row] | None, *names: str) -> list[dict[str, str]] | None:
    return None if rows is None else [{name: row[name] for name in names} for row in rows]


def _mean(points: Sequence[Row], name: str) -> float | None:
    return sum(point[name] for point in points) / len(points) if points else None


def _share(rows: Iterable[Row], part: str, whole: str) -> float | None:
    wholes = sum(row[whole] for row in rows)
    return sum(row[part] for row in rows) / wholes if wholes else None


def _sum(bases: Mapping[str, Row] | None, name: str) -> int | None:
    """bases: of each base model whose engines run."""
    return None if bases is None else sum(base[name] for base in bases.values())


def _name(row: Row) -> str:
    return str(row["adapter"] or row["model"])


def _loads(prompts: Iterable[Row]) -> list[AdapterLoad]:
    by_name: dict[str, list[Row]] = {}
    for row in prompts:
        by_name.setdefault(_name(row), []).append(row)
    return [_load(name, rows) for name, rows in by_name.items()]


def _load(name: str, rows: Sequence[Row]) -> AdapterLoad:
    ended = [row for row in rows if has_ended(row)]
    return AdapterLoad(
        name=name,
        running=len(rows) - len(ended),
        requests=len(ended),
        tokens=sum(row["completion_tokens"] for row in ended),
        errors=sum(map(_is_error, ended)),
        p95_seconds=quantile(sorted(row["total_seconds"] for row in ended), 0.95),
    )


def _is_error(row: Row) -> bool:
    """As the series counts: a deadline is the client's own."""
    return bool(row["status"] >= 500 and row["code"] != "deadline_exceeded")


def _running(prompts: Iterable[Row], now: float) -> list[LiveRequest]:
    """The one that runs longest first."""
    return [
        LiveRequest(
            id=row["id"],
            name=_name(row),
            tenant=row["tenant"],
            stage=row["timeline"][-1]["stage"],
            seconds=max(0.0, now - row["at"]),
            prompt_tokens=row["prompt_tokens"],
            tokens=row["completion_tokens"],
        )
        for row in sorted(prompts, key=lambda row: row["at"])
        if not has_ended(row)
    ]


SORT_KEYS: dict[str, Callable[[AdapterLoad], Any]] = {
    "requests": lambda load: -(load.requests + load.running),
    "tokens": lambda load: -load.tokens,
    "errors": lambda load: -load.errors,
    "p95": lambda load: -(load.p95_seconds or 0.0),
    "name": lambda load: load.name,
}
"""What adapters can be sorted by; the first is the default."""


def sorted_by(numbers: Numbers, column: str) -> Numbers:
    """Its adapters sorted, the largest first; equal ones by name. column: of SORT_KEYS."""
    if numbers.adapters is None:
        return numbers
    key = SORT_KEYS[column]
    return replace(numbers, adapters=sorted(numbers.adapters, key=lambda load: (key(load), load.name)))
