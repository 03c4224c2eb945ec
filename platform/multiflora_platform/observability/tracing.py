"""OpenTelemetry spans of generations, from arrival through the engine to the end. An extra: `multiflora[otel]`.

The engine's part (queue, prefill, decode) is made of times that it sends with its tokens; it knows nothing of spans.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from multiflora_platform.observability.observers import NewTokens, Observer, PromptStart
from multiflora_platform.settings import ConfigurationError
from multiflora_platform.web.openai_errors import ApiError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

_SERVICE = "multiflora"


class Tracing:
    """Where spans go. Make one with `Tracing.open`; `close` sends what is left."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer(_SERVICE)
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def open(cls, endpoint: str) -> Tracing:
        """endpoint: of an OTLP collector, over HTTP. Raises ConfigurationError when the extra is not installed."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise ConfigurationError(
                "--otlp-traces-endpoint needs OpenTelemetry; install it with: pip install 'multiflora[otel]'"
            ) from None
        provider = TracerProvider(resource=Resource.create({"service.name": _SERVICE}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        return cls(provider)

    def follow(self, headers: Mapping[str, str], facts: Mapping[str, Any], arrival: float) -> Observer:
        """Of one prompt, below the client's own span if its `traceparent` names one. facts: what is known at the start.

        arrival: Unix seconds.
        """
        context = self._propagator.extract(carrier={"traceparent": headers.get("traceparent", "")})
        attributes = {name: value for name, value in facts.items() if value is not None}
        span = self._tracer.start_span("llm_request", context, start_time=_ns(arrival), attributes=attributes)
        return _PromptSpans(self._tracer, span, arrival)

    def close(self) -> None:
        self._provider.shutdown()


class _PromptSpans(Observer):
    def __init__(self, tracer: Tracer, span: Span, arrival: float) -> None:
        self._tracer = tracer
        self._span = span
        self._arrival = arrival
        self._first: float | None = None
        self._num_tokens = 0
        self._device_seconds = 0.0

    def started(self, start: PromptStart) -> None:
        self._first = time.time()
        began = min(self._arrival + start.queued_seconds, self._first)
        self._part("queue", self._arrival, began)
        self._part("prefill", began, self._first)
        self._span.set_attribute("multiflora.usage.cached_tokens", start.cached_tokens)
        self._span.set_attribute("multiflora.usage.cache_write_tokens", start.cache_write_tokens)

    def tokens(self, new: NewTokens) -> None:
        self._num_tokens += len(new.token_ids)
        self._device_seconds += new.device_seconds

    def ended(self, outcome: str, error: ApiError | None) -> None:
        from opentelemetry.trace import Status, StatusCode

        now = time.time()
        if self._first is not None:
            self._part("decode", self._first, now)
        self._span.set_attributes(
            {
                "gen_ai.usage.output_tokens": self._num_tokens,
                "multiflora.device_seconds": self._device_seconds,
                "multiflora.outcome": outcome,
            }
        )
        if error is not None:
            self._span.set_status(Status(StatusCode.ERROR, error.code))
        self._span.end(_ns(now))

    def _part(self, name: str, start: float, end: float) -> None:
        from opentelemetry.trace import set_span_in_context

        self._tracer.start_span(name, set_span_in_context(self._span), start_time=_ns(start)).end(_ns(end))


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
