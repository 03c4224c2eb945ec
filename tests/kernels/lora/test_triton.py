"""Batched LoRA in Triton against one product per token in float64; interpreted at tiny shapes, compiled on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from tests.kernels.lora.cases import Site, loop, make_site, stacked

from multiflora_kernels.lora import launch as lora_launch
from multiflora_kernels.lora.batched_lora import LoraSegments, lora_embedding_, lora_linear_
from multiflora_kernels.lora.tiles import build_tiles, fill_table, table_entries

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
RANKS = [0, 1, 8, 128, 16, 33, 64]
DECODE = ([2, 3, 4, 7, 7, 8, 25, 26], [1, 3, 2, 0, 5, 6, 4])
"""One token, several, none, more than a tile, of all ranks; slot 0 has rank 0."""

PREFILL = ([1, 2, 51, 55], [3, 5, 2])


def to(device: torch.device) -> Callable[[np.ndarray], torch.Tensor]:
    return lambda table: torch.from_numpy(table).to(device)


def segments_on(device: torch.device, starts: list[int], slots: list[int]) -> LoraSegments:
    """Also on a CPU with tiles: there the kernels are interpreted."""
    return replace(LoraSegments.build(starts, slots), tiles=build_tiles(starts, slots, to(device)))


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that kernels are given is NaN until they write it."""
    empty = torch.empty

    def filled(*args, **kwargs):
        out = empty(*args, **kwargs)
        return out.fill_(float("nan")) if out.dtype.is_floating_point else out

    monkeypatch.setattr(torch, "empty", filled)


def assert_near(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """One rounding to the dtype of the result, beside what float32 sums lose."""
    expected = expected.cpu()
    size = expected.abs().max().item()
    assert torch.isfinite(actual).all()
    torch.testing.assert_close(
        actual.cpu().double(), expected, rtol=torch.finfo(actual.dtype).eps, atol=2e-5 * max(1.0, size)
    )


def run(
    device: torch.device,
    dtype: torch.dtype,
    segments: LoraSegments,
    k: int,
    sites: Sequence[Site],
    columns: list[tuple[int, int]],
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Checks a call against the loop, and that no other row or column changed; returns y."""
    rows = segments.host_starts[-1]
    sites = [site.to(device, dtype) for site in sites]
    x, before = torch.randn(rows, k).to(device, dtype), torch.randn(rows, columns[-1][1]).to(device, dtype)
    x[: segments.host_starts[0]] = float("nan")
    y = before.clone()
    lora_linear_(y, x, sites, columns, segments, bias)
    assert_near(y, loop(before.cpu(), x.cpu(), [site.to("cpu", dtype) for site in sites], columns, segments, bias))
    untouched = torch.ones_like(y, dtype=torch.bool)
    for begin, end, slot in segments.spans():
        for site, (c0, c1) in zip(sites, columns, strict=True):
            untouched[begin:end, c0:c1] = int(site.ranks[slot]) == 0
    assert torch.equal(y[untouched], before[untouched])
    return y


@pytest.mark.parametrize(
    ("dtype", "batch", "dora"),
    [
        (torch.float32, DECODE, False),
        (torch.float32, PREFILL, True),
        (torch.bfloat16, DECODE, True),
        (torch.bfloat16, PREFILL, False),
        (torch.float16, DECODE, True),
        (torch.float16, PREFILL, False),
    ],
)
def test_mixed_ranks(kernel_device, dtype, batch, dora):
    sites, columns = stacked(50, [33, 7, 64], ranks=RANKS, dora=dora)
    run(kernel_device, dtype, segments_on(kernel_device, *batch), 50, sites, columns)


@pytest.mark.parametrize("batch", [DECODE, PREFILL])
def test_sums_over_the_parts_of_k_and_columns_in_blocks(kernel_device, batch):
    sites, columns = stacked(560, [270, 40], ranks=RANKS)
    run(kernel_device, torch.float32, segments_on(kernel_device, *batch), 560, sites, columns)


def test_bias_and_sites_of_which_only_some_have_magnitudes(kernel_device):
    sites, columns = stacked(40, [32, 48, 20], ranks=RANKS, dora=True)
    sites[1] = replace(sites[1], magnitude=None)
    segments = segments_on(kernel_device, *DECODE)
    run(kernel_device, torch.float32, segments, 40, sites, columns, torch.randn(100).to(kernel_device))


def test_more_sites_than_one_launch_takes_and_gaps_between_columns(kernel_device):
    sites, columns = stacked(24, [16, 20, 24, 8], ranks=RANKS)
    segments = segments_on(kernel_device, *DECODE)
    run(kernel_device, torch.float32, segments, 24, sites, columns)
    run(kernel_device, torch.float32, segments, 24, [sites[0], sites[2]], [columns[0], columns[2]])


def test_a_slot_may_touch_some_sites_only(kernel_device):
    sites = [make_site(40, 16, ranks=[0, 1, 8, 0, 16, 33, 0]), make_site(40, 24, ranks=[0, 0, 8, 16, 0, 33, 64])]
    run(kernel_device, torch.float32, segments_on(kernel_device, *DECODE), 40, sites, [(0, 16), (16, 40)])


def test_a_batch_without_adapters(kernel_device):
    sites, columns = stacked(40, [16], ranks=RANKS)
    run(kernel_device, torch.float32, segments_on(kernel_device, [3, 3], [2]), 40, sites, columns)
    run(kernel_device, torch.float32, segments_on(kernel_device, [3], []), 40, sites, columns)


def test_few_programs_do_all_items(kernel_device, monkeypatch):
    monkeypatch.setattr(lora_launch, "MAX_PROGRAMS", 3)
    sites, columns = stacked(600, [300, 20], ranks=RANKS)
    run(kernel_device, torch.float32, segments_on(kernel_device, *DECODE), 600, sites, columns)


def test_the_same_bits_again(kernel_device):
    sites, columns = stacked(560, [24], ranks=RANKS)
    segments = segments_on(kernel_device, *DECODE)
    results = []
    for _ in range(2):
        torch.manual_seed(1)
        results.append(run(kernel_device, torch.bfloat16, segments, 560, sites, columns))
    assert torch.equal(*results)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dora", [False, True])
def test_embedding(kernel_device, dtype, dora):
    site = make_site(30, 20, ranks=RANKS, dora=dora, embedding=True).to(kernel_device, dtype)
    segments = segments_on(kernel_device, *DECODE)
    before, token_ids = torch.randn(26, 20).to(kernel_device, dtype), torch.randint(30, (26,)).to(kernel_device)
    h, expected = before.clone(), before.cpu().double()
    lora_embedding_(h, token_ids, site, segments)
    for begin, end, slot in segments.spans():
        rank, offset = int(site.ranks[slot]), int(site.offsets[slot])
        for t in range(begin, end):
            rows = slice(offset, offset + rank)
            expected[t] += (site.a[token_ids[t], rows].double() @ site.b[rows].double()).cpu()
            if site.magnitude is not None and rank:
                expected[t] *= site.magnitude[slot].double().cpu()
    assert_near(h, expected)
    assert torch.equal(h[:2], before[:2])


def test_one_static_table_serves_other_adapters_than_it_was_made_with(kernel_device):
    sites, columns = stacked(40, [16, 24], ranks=RANKS)
    table = torch.zeros(table_entries(24, 6), dtype=torch.int32, device=kernel_device)
    static = LoraSegments.static(table, 24, 6)
    host = np.zeros(len(table), np.int32)
    assert static.is_static
    for starts, slots in (([20, 21], [4]), ([0, 1, 2, 3, 20], [3, 1, 5, 2]), ([5], []), ([0, 24], [6])):
        fill_table(host, starts, slots, 24)
        table.copy_(torch.from_numpy(host))
        x, before = torch.randn(24, 40).to(kernel_device), torch.randn(24, 40).to(kernel_device)
        y = before.clone()
        lora_linear_(y, x, [site.to(kernel_device, torch.float32) for site in sites], columns, static)
        expected = loop(before.cpu(), x.cpu(), sites, columns, LoraSegments.build(starts, slots))
        assert_near(y, expected)
        assert torch.equal(y[: starts[0]], before[: starts[0]])
        assert torch.equal(y[starts[-1] :], before[starts[-1] :])
    with pytest.raises(AssertionError, match="not known on the host"):
        static.spans()


def test_a_bad_adapter_stays_alone(kernel_device):
    sites, columns = stacked(40, [16], ranks=RANKS)
    sites[0].b[int(sites[0].offsets[3])] = float("nan")
    y, x = torch.randn(26, 16).to(kernel_device), torch.randn(26, 40).to(kernel_device)
    moved = [site.to(kernel_device, torch.float32) for site in sites]
    lora_linear_(y, x, moved, columns, segments_on(kernel_device, *DECODE))
    assert torch.isnan(y).any(1).nonzero().squeeze(1).tolist() == [3]


def _large(adapters: int, tokens: int, base: int) -> tuple[list[int], list[int]]:
    return [base + tokens * i for i in range(adapters + 1)], torch.randperm(adapters).tolist()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("adapters", "tokens", "base"), [(64, 1, 3), (8, 8, 0), (1, 64, 5), (5, 300, 100), (1, 2000, 0)]
)
@pytest.mark.parametrize(("k", "widths"), [(4096, [4096, 1024, 1024]), (4096, [14336, 14336]), (14336, [4096])])
def test_large_shapes_on_a_gpu(kernel_device, dtype, adapters, tokens, base, k, widths):
    torch.seed()
    ranks = torch.randint(1, 129, (adapters,)).tolist()
    ends = torch.tensor([0, *widths]).cumsum(0).tolist()
    sites = [make_site(k, n, ranks=ranks, dora=len(widths) == 1).to(kernel_device, dtype) for n in widths]
    starts, slots = _large(adapters, tokens, base)
    segments = LoraSegments.build(starts, slots, to(kernel_device))
    x, y = (torch.randn(starts[-1], size, device=kernel_device).to(dtype) for size in (k, ends[-1]))
    expected = y.double()
    for begin, end, slot in segments.spans():
        for site, (c0, c1) in zip(sites, pairwise(ends), strict=True):
            rows = slice(int(site.offsets[slot]), int(site.offsets[slot]) + ranks[slot])
            shrunk = x[begin:end].double() @ site.a[rows].double().T
            expected[begin:end, c0:c1] += shrunk @ site.b[rows].double()
            if site.magnitude is not None:
                expected[begin:end, c0:c1] *= site.magnitude[slot].double()
    again = y.clone()
    for out in (y, again):
        lora_linear_(out, x, sites, list(pairwise(ends)), segments)
    assert torch.equal(y, again)
    assert_near(y, expected)


def test_work_ends_with_the_tiles_of_adapters_that_the_table_counts(kernel_device):
    """However many programs the capacity has: what lies behind is not even read."""
    sites, columns = stacked(40, [24], ranks=RANKS)
    table = torch.zeros(table_entries(8, 6), dtype=torch.int32, device=kernel_device)
    static, host = LoraSegments.static(table, 8, 6), np.zeros(table_entries(8, 6), np.int32)
    fill_table(host, [0, 1, 2, 3], [1, 3, 5], 8)
    host[3:-8:4] = 2
    table.copy_(torch.from_numpy(host))
    x, before = torch.randn(8, 40).to(kernel_device), torch.randn(8, 24).to(kernel_device)
    y = before.clone()
    lora_linear_(y, x, [site.to(kernel_device, torch.float32) for site in sites], columns, static)
    assert (y[:2] != before[:2]).any(dim=1).all()
    assert torch.equal(y[2:], before[2:])


@pytest.mark.gpu
def test_a_captured_graph_serves_other_adapters_on_a_gpu(kernel_device):
    ranks = [8, 16, 64, 128] * 16
    sites = [make_site(4096, n, ranks=ranks).to(kernel_device, torch.bfloat16) for n in (4096, 1024, 1024)]
    columns = [(0, 4096), (4096, 5120), (5120, 6144)]
    table = torch.zeros(table_entries(64, 64), dtype=torch.int32, device=kernel_device)
    static, host = LoraSegments.static(table, 64, 64), np.zeros(len(table), np.int32)
    x, before = (torch.randn(64, size, device=kernel_device).bfloat16() for size in (4096, 6144))
    y = before.clone()
    fill_table(host, [60, 61], [2], 64)
    table.copy_(torch.from_numpy(host))
    lora_linear_(y, x, sites, columns, static)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        lora_linear_(y, x, sites, columns, static)
    for starts, slots in (([0], []), (list(range(65)), torch.randperm(64).tolist()), ([9, 64], [3])):
        fill_table(host, starts, slots, 64)
        table.copy_(torch.from_numpy(host))
        y.copy_(before)
        graph.replay()
        eager = before.clone()
        lora_linear_(eager, x, sites, columns, LoraSegments.build(starts, slots, to(kernel_device)))
        torch.testing.assert_close(y, eager, rtol=2**-7, atol=0.05)
        assert torch.equal(y[: starts[0]], before[: starts[0]])
