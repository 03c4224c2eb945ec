"""Segment-wise LoRA against one small product per token; rows without an adapter must keep every bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.kernels.lora.cases import RANKS, Site, loop, make_site, stacked

from multiflora_kernels.lora.batched_lora import (
    LoraSegments,
    lora_embedding_,
    lora_linear_,
    lora_linear_reference_,
)


def check(near, k, sites, columns, segments, bias=None) -> None:
    tokens, base = segments.host_starts[-1], segments.host_starts[0]
    x = torch.randn(tokens, k)
    x[:base] = float("nan")
    y = torch.randn(tokens, columns[-1][1])
    before, expected = y.clone(), loop(y, x, sites, columns, segments, bias)
    lora_linear_(y, x, sites, columns, segments, bias)
    near(y, expected)
    assert torch.equal(y[:base], before[:base])
    for begin, end, slot in segments.spans():
        for site, (c0, c1) in zip(sites, columns, strict=True):
            if site is None or site.ranks[slot] == 0:
                assert torch.equal(y[begin:end, c0:c1], before[begin:end, c0:c1])


MIXED = LoraSegments.build([3, 4, 6, 23, 24, 60, 63], [1, 3, 2, 0, 4, 5])


@pytest.mark.parametrize(("k", "widths"), [(64, [64, 32, 32]), (50, [33, 7, 64]), (130, [70, 70]), (512, [512])])
@pytest.mark.parametrize("dora", [False, True])
def test_mixed_ranks_in_one_call(path, near, k, widths, dora):
    sites, columns = stacked(k, widths, dora=dora)
    check(near, k, sites, columns, MIXED, torch.randn(columns[-1][1]))
    check(near, k, sites, columns, MIXED)


@pytest.mark.parametrize("tokens", [1, 2, 3, 17])
def test_one_adapter(path, near, tokens):
    sites, columns = stacked(64, [48, 48])
    check(near, 64, sites, columns, LoraSegments.build([0, tokens], [4]))
    check(near, 64, sites, columns, LoraSegments.build([2, 2 + tokens], [1]))


def test_many_adapters_of_one_token(path, near):
    sites, columns = stacked(512, [512, 256, 256])
    check(near, 512, sites, columns, LoraSegments.build(list(range(33)), [slot % len(RANKS) for slot in range(32)]))


def test_empty_segments_and_no_segments(path, near):
    sites, columns = stacked(64, [48])
    check(near, 64, sites, columns, LoraSegments.build([1, 1, 4, 4], [2, 3, 4]))
    check(near, 64, sites, columns, LoraSegments.build([5], []))


def test_absent_sites_and_gaps_between_columns(path, near):
    sites, columns = stacked(64, [32, 16, 48])
    check(near, 64, [sites[0], None, sites[2]], columns, MIXED)
    check(near, 64, [None, None, None], columns, MIXED)
    check(near, 64, [sites[0], sites[2]], [columns[0], columns[2]], MIXED)


def test_mixed_dora_and_plain_sites(path, near):
    sites, columns = stacked(64, [32, 48], dora=True)
    sites[0] = replace(sites[0], magnitude=None)
    check(near, 64, sites, columns, MIXED, torch.randn(80))


def test_views(path, near):
    sites, columns = stacked(64, [48])
    x, y = torch.randn(63, 200)[:, 8:72], torch.randn(63, 100)[:, 20:68]
    expected = loop(y, x, sites, columns, MIXED)
    lora_linear_(y, x, sites, columns, MIXED)
    near(y, expected)


def test_reference(near):
    sites, columns = stacked(64, [32, 48], dora=True)
    wide = [Site(s.a.double(), s.b.double(), s.offsets, s.ranks, s.magnitude.double()) for s in sites]
    x, y, bias = torch.randn(63, 64), torch.randn(63, 80), torch.randn(80)
    expected, actual = loop(y, x, sites, columns, MIXED, bias), y.double()
    lora_linear_reference_(actual, x.double(), wide, columns, MIXED, bias.double())
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_threads_do_not_change_a_bit(path):
    sites, columns = stacked(512, [512, 256])
    x, y = torch.randn(63, 512), torch.randn(63, 768)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(y.clone())
        lora_linear_(results[-1], x, sites, columns, MIXED)
    torch.set_num_threads(threads)
    torch.testing.assert_close(*results, rtol=0, atol=0 if path == "native" else 1e-5)


def test_reallocated_tensors_are_followed(path, near):
    sites, columns = stacked(64, [48])
    check(near, 64, sites, columns, MIXED)
    fresh = make_site(64, 48, ranks=list(reversed(RANKS)))
    sites[0].a, sites[0].b, sites[0].offsets, sites[0].ranks = fresh.a, fresh.b, fresh.offsets, fresh.ranks
    check(near, 64, sites, columns, MIXED)


def test_a_bad_adapter_stays_alone(path):
    sites, columns = stacked(64, [48])
    sites[0].b[int(sites[0].offsets[3])] = float("nan")
    x, y = torch.randn(63, 64), torch.randn(63, 48)
    lora_linear_(y, x, sites, columns, MIXED)
    assert torch.isnan(y).any(1).nonzero().squeeze(1).tolist() == [4, 5]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_accumulates_wide(path, dtype):
    sites, columns = stacked(64, [48])
    for site in sites:
        site.a, site.b = site.a.to(dtype), site.b.to(dtype)
    x, y = torch.randn(63, 64, dtype=dtype), torch.zeros(63, 48, dtype=dtype)
    expected = loop(y, x, sites, columns, MIXED)
    lora_linear_(y, x, sites, columns, MIXED)
    torch.testing.assert_close(y.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-4)


@pytest.mark.parametrize("dora", [False, True])
def test_embedding(near, dora):
    site = make_site(100, 48, dora=dora, embedding=True)
    h, tokens = torch.randn(63, 48), torch.randint(100, (63,))
    expected = h.double()
    for begin, end, slot in MIXED.spans():
        for t in range(begin, end):
            if site.ranks[slot] == 0:
                continue
            rows = slice(int(site.offsets[slot]), int(site.offsets[slot] + site.ranks[slot]))
            expected[t] += site.a[tokens[t], rows].double() @ site.b[rows].double()
            if site.magnitude is not None:
                expected[t] *= site.magnitude[slot].double()
    before = h.clone()
    lora_embedding_(h, tokens, site, MIXED)
    near(h, expected)
    assert torch.equal(h[:3], before[:3])
    assert torch.equal(h[23:24], before[23:24])
