"""Answers of a server for the tests of `multiflora top`, as its JSON has them."""

from __future__ import annotations

from typing import Any

from multiflora_platform.cli.watching.live_numbers import Answers

NOW = 1_796_000_000.0
MODELS = [
    {"name": "base", "state": "ready", "is_default": True},
    {"name": "other", "state": "idle", "is_default": False},
]
REPLICAS = [
    {"id": "0", "group": "base", "state": "ready", "pid": 7, "running": 2, "waiting": 1},
    {"id": "1", "group": "base", "state": "starting", "pid": 8, "running": 0, "waiting": 0},
    {"id": "0", "group": "other", "state": "ready", "pid": None, "running": 1, "waiting": 0},
]
ALERTS = [{"id": "engine", "severity": "error", "title": "The engine restarts.", "next_step": "Read its log."}]


def point(at: float = NOW, **fields: Any) -> dict[str, Any]:
    rates = {"requests": 3, "errors": 0, "tokens_per_second": 1200.0}
    bases = {"base": {"kv_blocks": 1600, "kv_blocks_used": 480}, "other": {"kv_blocks": 400, "kv_blocks_used": 20}}
    return {"at": at, **rates, "by_base": bases, "gateway_bytes": 161_000_000, "engine_bytes": None, **fields}


def prompt(id: str, adapter: str | None = "sql", ended: float | None = 1.0, **fields: Any) -> dict[str, Any]:
    """One that took two seconds, and ended so many seconds ago; None: it runs."""
    ttft, total = (0.5, None) if ended is None else (0.5, 2.0)
    return {
        "id": id,
        "at": NOW - 2.0 - (ended or 0.0),
        "adapter": adapter,
        "model": adapter or "base",
        "tenant": None,
        "status": None if ended is None else 200,
        "code": None,
        "prompt_tokens": 100,
        "cached_tokens": 25,
        "completion_tokens": 10,
        "ttft": ttft,
        "total_seconds": total,
        "timeline": [{"stage": "queue"}, {"stage": "decode"}],
        **fields,
    }


def answers(*requests: dict[str, Any], **fields: Any) -> Answers:
    """Of a server that tells all."""
    told: dict[str, Any] = {
        "version": "1.2.3",
        "started_at": NOW - 3661.0,
        "models": MODELS,
        "replicas": REPLICAS,
        "points": [point(NOW - 1, requests=1, errors=1), point()],
        "alerts": ALERTS,
        "requests": list(requests),
    }
    return Answers(url="http://here", at=NOW + 500, **{**told, **fields})
