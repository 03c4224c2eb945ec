"""The attention that is measured on a GPU runs at tiny shapes here, and its floors count what they say."""

from __future__ import annotations

import pytest
import torch

from gpu.probes.attention import Shape, Work, attention_probes, cascade_costs
from multiflora_kernels.attention.tiles import AttentionHeads

HEADS = AttentionHeads(2, 1, 16, torch.float32)


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def test_rows_run_and_count(device):
    plain, shared, sloped = [Shape(2, 1, 40), Shape(1, 20, 20)], [Shape(3, 1, 40, 32)], [Shape(2, 1, 40)]
    probes = list(attention_probes(device, HEADS, plain, shared, sloped))
    rows = [probe.make() for probe in probes]
    assert [probe.name for probe in probes] == [f"{row.name}, {row.shape.rsplit(' ', 1)[0]}" for row in rows]
    for row in rows:
        row.call()
    names = ["decode", "prefill", "ALiBi", "shared, plain", "shared, cascade"]
    assert [row.name.split(maxsplit=1)[1] for row in rows] == names
    layers = [int(row.shape.rsplit("x", 1)[1]) for row in rows]
    # A token's keys and values are 128 bytes, a query and its result 256; a pair takes 2 heads x 16 x 4 FLOPs.
    per_layer = [(row.num_bytes / count, row.flops / count) for row, count in zip(rows, layers, strict=True)]
    assert per_layer == [
        (80 * 128 + 2 * 256, 80 * 128),
        (20 * 128 + 20 * 256, 210 * 128),
        (80 * 128 + 2 * 256, 80 * 128),
        (56 * 128 + 3 * 256, 120 * 128),
        (56 * 128 + 3 * 256, 120 * 128),
    ]


def test_plain_and_cascade_attend_to_the_same(device):
    work = Work(Shape(3, 1, 70, 48), HEADS, device)
    torch.testing.assert_close(work.plain(), work.cascade()(), rtol=0, atol=1e-5)


def test_slopes_reach_the_kernel(device):
    results = []
    for sloped in (False, True):
        torch.manual_seed(0)
        results.append(Work(Shape(2, 1, 40), HEADS, device, sloped).plain())
    assert not torch.allclose(*results, rtol=0, atol=1e-3)


def test_costs_come_out_of_four_times(device):
    times = iter([5.0, 3.0, 9.0, 4.0])
    costs = cascade_costs(lambda call: next(times), device, HEADS, sequences=3, long=64)
    layers = Work(Shape(3, 1, 64 + 256, 64), HEADS, device).layers
    assert costs.extra_seconds == pytest.approx(2.0 / layers)
    assert costs.reread_rate == pytest.approx(2 * 64 * 128 / ((5.0 + 2.0) / layers))
