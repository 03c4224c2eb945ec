"""What is made of a profiler's record."""

from __future__ import annotations

import pytest

from gpu.profiling import Span, by_kernel, gaps


def spans(*times: tuple[float, float]) -> list[Span]:
    return [Span("kernel", start, end) for start, end in times]


def test_gaps_between_spans_that_overlap() -> None:
    assert gaps([]) == 0
    assert gaps(spans((10.0, 20.0))) == 0
    assert gaps(spans((30.0, 40.0), (0.0, 10.0), (5.0, 20.0), (6.0, 7.0))) == pytest.approx(0.25)


def test_short_gaps_can_be_left_out() -> None:
    found = spans((0.0, 10.0), (13.0, 20.0), (30.0, 40.0))
    assert gaps(found) == pytest.approx(13 / 40)
    assert gaps(found, least=5.0) == pytest.approx(10 / 40)


def test_kernels_by_what_they_take() -> None:
    record = [Span("short", 0, 1), Span("long", 1, 8), Span("short", 8, 10), Span("rare", 10, 10.5)]
    assert by_kernel(record, steps=2, most=2) == [("long", 0.5, 3.5), ("short", 1.0, 1.5)]
