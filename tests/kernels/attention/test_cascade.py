"""Cascade decode attention: groups found as a loop over tables finds them, results as in plain attention."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.kernels.attention.cases import Case, loop, make, slopes_of, stored

from multiflora_kernels.attention.cascade import (
    CPU_COSTS,
    CascadeCosts,
    cascade_attention_triton,
    plan_cascade,
    plan_parts,
    shared_groups,
)
from multiflora_kernels.attention.paged_attention import paged_attention, paged_attention_reference
from multiflora_kernels.attention.tiles import AttentionHeads
from multiflora_kernels.runtime.native import library

FREE = CascadeCosts(reread_rate=1e30, extra_seconds=0.0)
"""Groups cost nothing: every one is taken."""
ANY_HEADS = AttentionHeads(1, 1, 16, torch.float32)


def share(case: Case, groups: list[tuple[int, int, int]], block_size: int = 16) -> Case:
    """Gives the sequences first..end the leading blocks of the first; both lengths and blocks are that of `make`."""
    tables = case.arguments[4]
    for first, end, blocks in groups:
        for s in range(first + 1, end):
            tables[s, :blocks] = tables[first, :blocks]
            for rows in (case.keys, case.values):
                rows[s][: blocks * block_size] = rows[first][: blocks * block_size]
    return case


def groups_of(case: Case, costs: CascadeCosts = FREE) -> np.ndarray | None:
    k_cache, _, _, lengths, tables = case.arguments
    heads = AttentionHeads(case.q.shape[1], k_cache.shape[1], case.q.shape[2], case.q.dtype)
    return shared_groups(tables.numpy(), lengths.numpy(), k_cache.shape[2], heads, costs)


def attend(
    case: Case,
    groups: np.ndarray,
    device: torch.device,
    softcap: float | None = None,
    slopes: torch.Tensor | None = None,
) -> torch.Tensor:
    case = case.to(device)
    k_cache, _, starts, lengths, _ = case.arguments
    heads = AttentionHeads(case.q.shape[1], k_cache.shape[1], case.q.shape[2], case.q.dtype)
    plan = plan_parts(starts, lengths, torch.from_numpy(groups).to(device), heads)
    return cascade_attention_triton(
        case.q, *case.caches, case.step(None, softcap, plan, None if slopes is None else slopes.to(device))
    )


def check(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert torch.isfinite(actual).all()
    tolerance = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}[actual.dtype]
    error = (actual.cpu().double() - expected).abs().max().item()
    assert error <= tolerance * max(1.0, expected.abs().max().item()), error


def tables_of(*rows: list[int]) -> np.ndarray:
    width = max(map(len, rows))
    return np.array([row + [0] * (width - len(row)) for row in rows], dtype=np.int32)


@pytest.mark.parametrize(
    ("dtype", "softcap"), [(torch.float32, None), (torch.float32, 2.0), (torch.bfloat16, None), (torch.float16, 2.0)]
)
def test_groups_and_loners(kernel_device, dtype, softcap):
    """Two groups, a sequence between them, one after them; lengths that end in the first block of their own."""
    case = share(make([100, 81, 250, 33, 97, 130, 7], [1] * 7, dtype=dtype), [(0, 3, 5), (4, 6, 6)])
    groups = groups_of(case)
    assert groups.tolist() == [[0, 0, 0, 3, 4, 4, 6], [3, 0, 0, 0, 2, 0, 0], [80, 80, 80, 0, 96, 96, 0]]
    check(attend(case, groups, kernel_device, softcap), loop(case, None, softcap))


@pytest.mark.parametrize(("heads", "kv_heads", "members"), [(2, 2, 17), (6, 2, 6)])
def test_slopes(kernel_device, heads, kv_heads, members):
    """Members stand at other distances from the shared keys, in more tiles than one; one sequence has no group."""
    lengths = [200 + 7 * s for s in range(members)] + [90]
    case = share(make(lengths, [1] * len(lengths), heads, kv_heads, 16), [(0, members, 11)])
    slopes = slopes_of(heads) / 8
    check(attend(case, groups_of(case), kernel_device, slopes=slopes), loop(case, slopes=slopes))


@pytest.mark.parametrize(("heads", "kv_heads", "size", "members"), [(16, 1, 32, 9), (3, 1, 80, 5), (2, 2, 24, 3)])
def test_a_group_of_many_tiles(kernel_device, heads, kv_heads, size, members):
    """More members than a tile has rows, and a prefix long enough to be split."""
    lengths = [600 + 5 * s for s in range(members)]
    case = share(make(lengths, [1] * members, heads, kv_heads, size, dtype=torch.float16), [(0, members, 37)])
    check(attend(case, groups_of(case), kernel_device), loop(case))


def test_no_groups(kernel_device):
    """What a captured cascade does in a step without any."""
    case = make([40, 300], [1, 1])
    groups = np.array([[0, 1], [0, 0], [0, 0]], dtype=np.int32)
    check(attend(case, groups, kernel_device), loop(case))


def test_padding_sequences(kernel_device):
    case = share(make([70, 90, 0, 0], [1, 1, 0, 0]), [(0, 2, 4)])
    expected = loop(case)
    groups = groups_of(case)
    assert groups[1].tolist() == [2, 0, 0, 0]
    case.q = torch.cat([case.q, torch.full_like(case.q, math.nan)])
    check(attend(case, groups, kernel_device)[:2], expected)


def test_twice_the_same_bits(kernel_device):
    case = share(make([200, 180, 190], [1] * 3, dtype=torch.bfloat16), [(0, 3, 10)])
    groups = groups_of(case)
    assert torch.equal(attend(case, groups, kernel_device), attend(case, groups, kernel_device))


def test_the_last_token_is_always_own():
    """A context of exactly two blocks shares one: a sequence has at least one key of its own."""
    tables = tables_of([5, 6], [5, 6])
    assert shared_groups(tables, np.array([32, 32]), 16, ANY_HEADS, FREE).tolist() == [[0, 0], [2, 0], [16, 16]]


def test_entries_past_the_end_are_no_blocks():
    tables = tables_of([5, 9, 0, 0], [5, 8, 0, 0])
    assert shared_groups(tables, np.array([20, 30]), 16, ANY_HEADS, FREE)[2].tolist() == [16, 16]


def test_nested_prefixes_are_shared_where_most_is_saved():
    """A system prompt of all, documents of some: the long documents win over the short prompt, and the other way."""
    documents = tables_of([1, 2, 3, 4, 10], [1, 2, 3, 4, 11], [1, 6, 7, 8, 12], [1, 6, 7, 8, 13])
    assert shared_groups(documents, np.full(4, 80), 16, ANY_HEADS, FREE)[1].tolist() == [2, 0, 2, 0]
    prompt = tables_of([1, 2, 3, 4, 10], [1, 2, 3, 4, 11], [1, 2, 3, 8, 12], [1, 2, 3, 9, 13])
    assert shared_groups(prompt, np.full(4, 80), 16, ANY_HEADS, FREE)[1:, 0].tolist() == [4, 48]


@pytest.mark.parametrize("seed", range(4))
def test_common_blocks_are_those_of_a_loop(seed):
    """Random trees of prefixes; pairs of neighbours make the groups, so all that they share must be found."""
    generator = np.random.default_rng(seed)
    tables = np.arange(12 * 40, dtype=np.int32).reshape(12, 40)
    for s in range(1, 12):
        blocks = int(generator.integers(0, 40)) * int(generator.integers(0, 2))
        tables[s, :blocks] = tables[s - 1, :blocks]
    for s in range(11):
        pair = tables[s : s + 2]
        expected = next((j for j in range(40) if pair[0, j] != pair[1, j]), 39)
        found = shared_groups(pair, np.array([640, 640]), 16, ANY_HEADS, FREE)
        assert (0 if found is None else found[2, 0]) == 16 * min(expected, 39)


def test_what_does_not_pay_is_left():
    heads = AttentionHeads(32, 8, 128, torch.bfloat16)
    tables = np.arange(32 * 200, dtype=np.int32).reshape(32, 200)
    lengths = np.full(32, 3000)
    tables[:, :4] = tables[0, :4]
    assert shared_groups(tables, lengths, 16, heads) is None
    tables[:, :128] = tables[0, :128]
    assert shared_groups(tables, lengths, 16, heads)[1, 0] == 32
    assert shared_groups(tables, lengths, 16, heads, CascadeCosts(extra_seconds=1.0)) is None


def test_a_cache_of_8_bits_shares_less_than_the_same_keys_in_bfloat16():
    plain = AttentionHeads(32, 8, 128, torch.bfloat16)
    packed = replace(plain, reads_codes=True)
    assert (plain.entry_bytes, packed.entry_bytes) == (256, 130)
    tables, lengths = np.arange(2 * 2000, dtype=np.int32).reshape(2, 2000), np.full(2, 31_000)
    tables[1, :1000] = tables[0, :1000]
    assert shared_groups(tables, lengths, 16, plain)[1, 0] == 2
    assert shared_groups(tables, lengths, 16, packed) is None
    tables[1, :1900] = tables[0, :1900]
    assert shared_groups(tables, lengths, 16, packed)[1, 0] == 2


@pytest.mark.parametrize(("kv_heads", "least"), [(8, 7), (4, 4), (1, 2)])
def test_on_a_cpu_a_tile_takes_the_time_of_several_rows(kv_heads, least):
    heads = AttentionHeads(16, kv_heads, 64, torch.float32)
    tables, lengths = np.arange(9 * 80, dtype=np.int32).reshape(9, 80), np.full(9, 1200)
    tables[:, :64] = tables[0, :64]
    found = [shared_groups(tables[:count], lengths[:count], 16, heads, CPU_COSTS) for count in range(2, 10)]
    assert [groups is not None for groups in found] == [count >= least for count in range(2, 10)]
    assert all(groups[1, 0] == groups.shape[1] for groups in found if groups is not None)


@pytest.mark.skipif(library() is None, reason="needs the native library")
@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(2, 2, 32), (6, 2, 64), (8, 1, 80), (4, 1, 256)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize(("softcap", "is_biased"), [(None, False), (2.0, True)])
@pytest.mark.parametrize("rounds", [False, True])
def test_on_a_cpu(heads, kv_heads, size, dtype, softcap, is_biased, rounds):
    """Two groups, of more rows than a tile has and of fewer, and others; members' own tables of what they share lead to
    blocks that must not be read."""
    lengths = [200 + 7 * s for s in range(19)] + [90, 97, 130, 145, 7, 33]
    groups = [(0, 19, 11), (20, 23, 5)]
    case = share(make(lengths, [1] * len(lengths), heads, kv_heads, size), groups)
    q, caches = case.q, stored(case, dtype)
    slopes, sinks = (slopes_of(heads) / 8, torch.linspace(-2, 3, heads)) if is_biased else (None, None)
    step = replace(case.step(softcap=softcap, slopes=slopes), rounds=rounds)
    plain = paged_attention(q, *caches, step, sinks)
    tables = step.block_tables.clone()
    for first, end, blocks in groups:
        tables[first + 1 : end, :blocks] = tables[-1, -1]
    found = torch.from_numpy(groups_of(case))
    y = paged_attention(q, *caches, replace(step, block_tables=tables, groups=found), sinks)
    largest = max(value.abs().max() for value in case.values)
    assert (y - plain).abs().max() <= largest * (2.0**-6 if rounds else 1e-5)
    if dtype == torch.float32 and not rounds:
        check(y, loop(case, None, softcap, slopes, sinks))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(y, paged_attention(q, *caches, replace(step, groups=found), sinks))
    finally:
        torch.set_num_threads(threads)


def test_a_cpu_needs_no_plan():
    case = make([40, 40], [1, 1])
    assert plan_cascade(*case.arguments[2:4], torch.zeros(3, 2, dtype=torch.int32), ANY_HEADS) is None


def test_a_single_sequence_and_none():
    for count in (0, 1):
        assert shared_groups(np.zeros((count, 3), dtype=np.int32), np.full(count, 40), 16, ANY_HEADS, FREE) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(32, 8, 128), (8, 8, 64), (16, 8, 256)])
@pytest.mark.parametrize("is_sloped", [False, True])
def test_on_a_gpu(dtype, heads, kv_heads, size, is_sloped):
    torch.seed()
    lengths = torch.randint(1100, 1800, (40,)).tolist()
    on_host = share(make(lengths, [1] * 40, heads, kv_heads, size, dtype=dtype), [(0, 25, 64), (27, 38, 60)])
    device = torch.device("cuda")
    case, slopes = on_host.to(device), slopes_of(heads).to(device) / 100 if is_sloped else None
    k_cache, v_cache = case.caches
    step = case.step(slopes=slopes)
    expected = paged_attention_reference(case.q.double(), k_cache.double(), v_cache.double(), step).cpu()
    check(attend(on_host, groups_of(on_host), device, slopes=slopes), expected)
    check(paged_attention(case.q, *case.caches, step), expected)
