"""The families of /metrics about the choice between several engines; of one engine they have no samples."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Histogram

from multiflora_platform.engine import Placement
from multiflora_platform.observability.observers import Observer, PromptStart, RoutingObserver

_DECISION = (25e-6, 50e-6, 100e-6, 200e-6, 300e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 50e-3)
_TOKENS = (0, 16, 64, 256, 1024, 4096, 16384)


class RouterMetrics(RoutingObserver):
    """model: the base model's name. predicted and real cached tokens are of the prompts that `follow` watches."""

    def __init__(self, registry: CollectorRegistry, model: str) -> None:
        self._model = model
        of_model, of_replica = ["model_name"], ["model_name", "replica"]
        self._decision = Histogram(
            "multiflora_router_decision_seconds", "Seconds that a choice of a replica took", of_model,
            buckets=_DECISION, registry=registry,
        )  # fmt: skip
        self._placed = Counter(
            "multiflora_router_requests", "Requests sent to a replica, by why", [*of_replica, "reason"],
            registry=registry,
        )  # fmt: skip
        self._moved = Counter(
            "multiflora_router_moves", "Requests that a replica lost to another one, by why", [*of_replica, "cause"],
            registry=registry,
        )  # fmt: skip
        self._predicted = Counter(
            "multiflora_router_predicted_cached_tokens", "Prompt tokens that the router expected to be cached",
            of_replica, registry=registry,
        )  # fmt: skip
        self._real = Counter(
            "multiflora_router_cached_tokens", "Prompt tokens that were cached, of the same prompts", of_replica,
            registry=registry,
        )  # fmt: skip
        self._error = Histogram(
            "multiflora_router_cached_tokens_error", "Prompt tokens between what was expected to be cached and was",
            of_replica, buckets=_TOKENS, registry=registry,
        )  # fmt: skip

    def decided(self, seconds: float) -> None:
        self._decision.labels(self._model).observe(seconds)

    def placed(self, placement: Placement) -> None:
        self._placed.labels(self._model, placement.replica, placement.reason).inc()

    def moved(self, replica: str, cause: str) -> None:
        self._moved.labels(self._model, replica, cause).inc()

    def follow(self, place: Callable[[], Placement | None]) -> Observer:
        """Of one prompt. place: where it is now."""
        return _PlacedPrompt(self, place)

    def began(self, placement: Placement, cached_tokens: int) -> None:
        if placement.cached_tokens is not None:
            labels = self._model, placement.replica
            self._predicted.labels(*labels).inc(placement.cached_tokens)
            self._real.labels(*labels).inc(cached_tokens)
            self._error.labels(*labels).observe(abs(placement.cached_tokens - cached_tokens))


class _PlacedPrompt(Observer):
    def __init__(self, metrics: RouterMetrics, place: Callable[[], Placement | None]) -> None:
        self._metrics = metrics
        self._place = place

    def started(self, start: PromptStart) -> None:
        if (placement := self._place()) is not None:
            self._metrics.began(placement, start.cached_tokens)
