"""The Triton kernels of paged attention against a loop in float64: interpreted at tiny shapes, compiled on a GPU."""

from __future__ import annotations

import math

import pytest
import torch
from tests.kernels.attention.cases import Case, loop, make

from multiflora_kernels.attention.paged_attention import paged_attention, paged_attention_reference
from multiflora_kernels.attention.plan import (
    AttentionPlan,
    QueryBounds,
    plan_attention,
    plan_work,
)
from multiflora_kernels.attention.tiles import AttentionHeads, capability_class
from multiflora_kernels.attention.triton import paged_attention_triton

LENGTHS = [1, 15, 0, 17, 150, 70, 16]
QUERIES = [1, 1, 0, 3, 33, 40, 1]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def plan_of(case: Case, window: int | None = None, bounds: QueryBounds | None = None) -> AttentionPlan:
    k_cache, _, starts, lengths, _ = case.arguments
    heads = AttentionHeads(case.q.shape[1], k_cache.shape[1], case.q.shape[2], case.q.dtype)
    return plan_work(starts, lengths, case.q.shape[0], heads, window, bounds)


def attend(
    case: Case, window: int | None = None, softcap: float | None = None, bounds: QueryBounds | None = None
) -> torch.Tensor:
    step = case.step(window, softcap, plan_of(case, window, bounds))
    return paged_attention_triton(case.q, *case.caches, step)


TOLERANCES = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}
"""Of the largest expected value: what float32 promises; or the rounding of the result and of its weights."""


def check(actual: torch.Tensor, expected: torch.Tensor, tolerance: float | None = None) -> None:
    assert torch.isfinite(actual).all()
    error = (actual.cpu().double() - expected).abs().max().item()
    assert error <= (tolerance or TOLERANCES[actual.dtype]) * max(1.0, expected.abs().max().item()), error


def merged(plan: AttentionPlan) -> int:
    """How many tiles have their keys split."""
    return sum(int(work.counts[1]) for work in plan.lists)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (20, None), (None, 2.0), (1, 2.0)])
def test_mixed_prefill_and_decode(kernel_device, dtype, window, softcap):
    case = make(LENGTHS, QUERIES, dtype=dtype).to(kernel_device)
    check(attend(case, window, softcap), loop(case, window, softcap))


@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "block_size"),
    [(1, 1, 64, 16), (6, 2, 80, 32), (5, 1, 96, 64), (8, 1, 128, 128), (16, 1, 256, 16), (3, 3, 24, 5)],
)
def test_shapes(kernel_device, heads, kv_heads, size, block_size):
    case = make([140, 70, 20], [1, 18, 2], heads, kv_heads, size, block_size, torch.float16).to(kernel_device)
    check(attend(case), loop(case))


@pytest.mark.parametrize("window", [None, 150])
@pytest.mark.parametrize("queries", [[1, 1, 0, 1, 1], [3, 2, 0, 1, 4]])
def test_decode_splits_keys(kernel_device, window, queries):
    case = make([600, 33, 0, 257, 64], queries, 4, 1, 32).to(kernel_device)
    bounds = QueryBounds(1, max(queries))
    if kernel_device.type == "cpu":
        assert merged(plan_of(case, window, bounds)), "the case is there for the second kernel"
    check(attend(case, window, None, bounds), loop(case, window))


@pytest.mark.parametrize("window", [None, 550])
def test_prompts_split_keys(kernel_device, window):
    """The rest of a prompt whose beginning was cached: few queries, many keys."""
    case = make([700, 600], [17, 33], 2, 1, 32, dtype=torch.float16).to(kernel_device)
    if kernel_device.type == "cpu":
        assert merged(plan_of(case, window))
    check(attend(case, window), loop(case, window))


def test_large_scores_do_not_overflow(kernel_device):
    case = make(LENGTHS, QUERIES)
    case.q *= 300
    case = case.to(kernel_device)
    check(attend(case), loop(case), tolerance=1e-3)  # float32 scores of 1,000 are exact to 1e-4


def test_blocks_before_the_window_are_not_read(kernel_device):
    case = make([300, 80], [1, 20])
    expected = loop(case, 10)
    k_cache, v_cache, _, _, tables = case.arguments
    for s, freed in ((0, 18), (1, 3)):
        k_cache[tables[s, :freed].long()] = math.nan
        v_cache[tables[s, :freed].long()] = math.nan
    check(attend(case.to(kernel_device), 10), expected)


@pytest.mark.parametrize("window", [1, 10, 33, 150])
@pytest.mark.parametrize("queries", [[1, 1, 3], [20, 1, 33]])
def test_no_key_before_the_window_is_read(kernel_device, window, queries):
    """Down to the last one: what a value that weighs 0 would not cancel is NaN, also where pieces of keys meet."""
    case = make([300, 257, 80], queries, 4, 1)
    expected = loop(case, window)
    k_cache, v_cache, _, _, tables = case.arguments
    for s, (length, count) in enumerate(zip([300, 257, 80], queries, strict=True)):
        for j in range(max(0, length - count - window + 1)):
            k_cache[tables[s, j // 16], :, j % 16] = math.nan
            v_cache[tables[s, j // 16], :, j % 16] = math.nan
    check(attend(case.to(kernel_device), window), expected)


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning")
def test_one_bad_sequence_stays_alone(kernel_device):
    case = make([400, 20, 20], [1, 5, 1])
    case.q[0, 0, 0] = math.nan
    y = attend(case.to(kernel_device))
    assert torch.isnan(y[0, 0]).all()
    y[0, 0] = 0
    assert torch.isfinite(y).all()


def test_twice_the_same_bits(kernel_device):
    case = make([300, 64], [1, 18], dtype=torch.bfloat16).to(kernel_device)
    assert torch.equal(attend(case), attend(case))


def test_rows_of_no_sequence(kernel_device):
    """A graph's batch is padded: sequences without queries, and more rows than queries."""
    case = make([40, 0, 0], [2, 0, 0])
    expected = loop(case)
    case.q = torch.cat([case.q, torch.full_like(case.q, math.nan)])
    case = case.to(kernel_device)
    check(attend(case)[:2], expected)


@pytest.mark.parametrize("window", [None, 1, 37, 300])
@pytest.mark.parametrize("seed", range(3))
def test_plan_takes_every_visible_pair_once(kernel_device, window, seed):
    generator = torch.Generator().manual_seed(seed)
    longest = [1, 40, 700][seed]
    queries = torch.randint(0, longest + 1, (7,), generator=generator)
    lengths = (queries + torch.randint(0, 900, (7,), generator=generator)) * (queries > 0)
    starts = torch.tensor([0, *queries.cumsum(0).tolist()]).int()
    heads = AttentionHeads(8, 2, 32, torch.float16)
    arguments = (starts.to(kernel_device), lengths.int().to(kernel_device), int(starts[-1]), heads, window)
    plan = plan_work(*arguments, QueryBounds(1, max(1, int(queries.max()))))
    position = (
        (lengths - queries).repeat_interleave(queries)
        + torch.arange(starts[-1])
        - starts[:-1].repeat_interleave(queries)
    )
    keys = torch.arange(int(lengths.max()))
    seen = keys <= position[:, None]
    if window is not None:
        seen &= keys > position[:, None] - window
    taken = torch.zeros_like(seen, dtype=torch.int32)
    for work in plan.lists:
        num_items, num_merges = work.counts.tolist()
        assert num_items <= len(work.items)
        assert num_merges <= len(work.merges)
        used = [False] * len(work.partial)
        for _, first, end, slot, token, tokens, place, _ in work.items[:num_items].tolist():
            assert place == position[token]
            assert tokens <= work.most_tokens
            taken[token : token + tokens, first:end] += seen[token : token + tokens, first:end].int()
            if slot >= 0:
                assert not used[slot]
                used[slot] = True
        for first, slots, _, _ in work.merges[:num_merges].tolist():
            assert all(used[first : first + slots])
            used[first : first + slots] = [False] * slots
        assert not any(used)
    assert torch.equal(taken, seen.int())


@pytest.mark.parametrize(("kib", "name"), [(227, 90), (228, 90), (164, 80), (163, 80), (99, 86), (100, 86), (64, 86)])
def test_tiles_follow_what_fits_into_a_multiprocessor(kib, name):
    """H100 and B200; A100; RTX 3090, A10, L4, RTX 4090 and RTX 5090, whatever the number of their generation."""
    assert capability_class(kib << 10) == name


def test_a_cpu_needs_no_plan():
    case = make([5], [1])
    heads = AttentionHeads(4, 2, 32, torch.float32)
    assert plan_attention(case.arguments[2], case.arguments[3], 1, heads) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (500, None), (None, 30.0)])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "block_size"), [(32, 8, 128, 16), (16, 8, 256, 32), (8, 8, 80, 64)]
)
def test_on_a_gpu(dtype, window, softcap, heads, kv_heads, size, block_size):
    """Fresh random lengths at serving size: long contexts, decode beside prompts."""
    torch.seed()
    queries = torch.randint(1, 5, (24,)).tolist() + torch.randint(5, 700, (8,)).tolist() + [0, 0]
    lengths = [0 if count == 0 else count + int(torch.randint(0, 3000, ())) for count in queries]
    case = make(lengths, queries, heads, kv_heads, size, block_size, dtype)
    k_cache, v_cache = case.caches
    expected = paged_attention_reference(
        case.q.double(), k_cache.double(), v_cache.double(), case.step(window, softcap)
    )
    case = case.to(torch.device("cuda"))
    check(paged_attention(case.q, *case.caches, case.step(window, softcap)), expected)
