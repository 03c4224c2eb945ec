"""`from multiflora.v1.metrics.reader import Counter`, as vLLM's programs write it."""

from __future__ import annotations

from multiflora.offline.metrics import Counter, Gauge, HistogramMetric, Metric, VectorMetric

Histogram = HistogramMetric
Vector = VectorMetric
__all__ = ["Counter", "Gauge", "Histogram", "Metric", "Vector"]
