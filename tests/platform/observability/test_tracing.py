"""Spans of a generation: its parts in order, below the client's span, with what it used and how it ended."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.platform.gateway.conftest import house, make_house, tokenizer
from tests.platform.gateway.house import House

from multiflora_engine.protocol.requests import EngineFailure
from multiflora_platform.observability.tracing import Tracing

__all__ = ["house", "make_house", "tokenizer"]


@pytest.fixture
def spans(house: House) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    house.services.tracing = Tracing(provider)
    return exporter


def by_name(exporter: InMemorySpanExporter) -> dict[str, Any]:
    return {span.name: span for span in exporter.get_finished_spans()}


async def test_parts_stand_below_the_clients_span(house: House, spans: InMemorySpanExporter) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await house.post("/v1/completions", {"model": "sql", "prompt": "Say", "max_tokens": 4}, traceparent=parent)
    found = by_name(spans)
    assert set(found) == {"llm_request", "queue", "prefill", "decode"}
    request = found["llm_request"]
    assert f"{request.context.trace_id:032x}" == parent.split("-")[1]
    assert f"{request.parent.span_id:016x}" == parent.split("-")[2]
    for name in ("queue", "prefill", "decode"):
        assert found[name].parent.span_id == request.context.span_id
    assert found["queue"].end_time == found["prefill"].start_time
    assert found["prefill"].end_time == found["decode"].start_time
    assert request.attributes["gen_ai.usage.input_tokens"] == 3
    assert request.attributes["gen_ai.usage.output_tokens"] == 4
    assert request.attributes["multiflora.adapter"] == "sql"


async def test_a_failure_is_a_status(house: House, spans: InMemorySpanExporter) -> None:
    house.engine.failure = EngineFailure("engine_dead", "It died.")
    await house.post("/v1/completions", {"model": "base", "prompt": "Say"})
    request = by_name(spans)["llm_request"]
    assert request.status.description == "engine_dead"
    assert request.attributes["multiflora.outcome"] == "error"
