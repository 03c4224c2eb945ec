"""The Triton kernels of paged attention against a loop in float64: interpreted at tiny shapes, compiled on a GPU."""

from __future__ import annotations

import math

import pytest
import torch
from tests.kernels.attention.cases import attend, check, loop, make, slopes_of
from tests.kernels.attention.test_quantised_cache import quantised

from multiflora_kernels.attention.paged_attention import paged_attention, paged_attention_reference

LENGTHS = [1, 15, 0, 17, 150, 70, 16]
QUERIES = [1, 1, 0, 3, 33, 40, 1]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize(
    ("dtype", "window", "softcap"),
    [
        (torch.float32, None, None),
        (torch.float32, 20, None),
        (torch.float32, None, 2.0),
        (torch.float32, 1, 2.0),
        (torch.bfloat16, None, None),
        (torch.bfloat16, 20, 2.0),
        (torch.float16, None, 2.0),
    ],
)
def test_mixed_prefill_and_decode(kernel_device, dtype, window, softcap):
    case = make(LENGTHS, QUERIES, dtype=dtype).to(kernel_device)
    check(attend(case, window, softcap), loop(case, window, softcap))


@pytest.mark.parametrize(("dtype", "window", "softcap"), [(torch.float32, None, 2.0), (torch.bfloat16, 20, None)])
def test_sinks(kernel_device, dtype, window, softcap):
    """Below, among and far above the scores of keys; each head has another."""
    case, sinks = make([1, 17, 50], [1, 3, 20], 3, 1, dtype=dtype).to(kernel_device), torch.linspace(-20, 12, 3)
    check(attend(case, window, softcap, sinks=sinks), loop(case, window, softcap, sinks=sinks))


@pytest.mark.parametrize(
    ("dtype", "window", "softcap", "heads", "kv_heads"),
    [
        (torch.float32, None, None, 3, 3),
        (torch.float32, 20, 2.0, 4, 2),
        (torch.bfloat16, None, None, 5, 1),
        (torch.float16, 20, None, 2, 2),
    ],
)
def test_slopes(kernel_device, dtype, window, softcap, heads, kv_heads):
    """ALiBi, in pieces of keys that are merged and in whole ones, and with what else changes scores."""
    case, slopes = (
        make([15, 1, 150, 70], [1, 1, 1, 40], heads, kv_heads, dtype=dtype).to(kernel_device),
        slopes_of(heads),
    )
    check(attend(case, window, softcap, slopes=slopes), loop(case, window, softcap, slopes))


def test_slopes_beside_sinks(kernel_device):
    case, sinks, slopes = make([17, 150], [3, 1], 3, 1).to(kernel_device), torch.linspace(-5, 3, 3), slopes_of(3)
    check(attend(case, sinks=sinks, slopes=slopes), loop(case, slopes=slopes, sinks=sinks))


def test_slopes_far_from_the_first_key(kernel_device):
    """What is added to the nearest keys' scores is small, however long the sequence: none of it may be rounded off."""
    case, slopes = make([3000], [2], 1, 1, 16, 64).to(kernel_device), torch.tensor([0.7])
    check(attend(case, slopes=slopes), loop(case, slopes=slopes), tolerance=1e-5)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "block_size"),
    [(1, 1, 64, 16), (6, 2, 80, 32), (5, 1, 96, 64), (8, 1, 128, 128), (16, 1, 256, 16), (3, 3, 24, 5)],
)
def test_shapes(kernel_device, heads, kv_heads, size, block_size):
    case = make([140, 70, 20], [1, 18, 2], heads, kv_heads, size, block_size, torch.float16).to(kernel_device)
    check(attend(case), loop(case))


@pytest.mark.parametrize(
    ("codes", "dtype", "window", "softcap"),
    [
        (torch.int8, torch.float32, 7, 2.0),
        (torch.int8, torch.bfloat16, None, None),
        (torch.float8_e4m3fn, torch.float16, None, None),
        (torch.float8_e5m2, torch.float32, 20, None),
    ],
)
def test_quantised_caches(kernel_device, codes, dtype, window, softcap):
    """Also where keys are split among items, and a head is no power of two."""
    case = quantised(make([17, 150, 40], [1, 1, 20], 4, 2, 24, dtype=dtype), codes).to(kernel_device)
    check(attend(case, window, softcap), loop(case, window, softcap))


@pytest.mark.parametrize(("codes", "dtype"), [(torch.int8, torch.bfloat16), (torch.float8_e4m3fn, torch.float32)])
def test_slopes_over_quantised_caches(kernel_device, codes, dtype):
    case, slopes = (
        quantised(make([17, 150, 40], [1, 1, 20], 3, 3, 24, dtype=dtype), codes).to(kernel_device),
        slopes_of(3),
    )
    check(attend(case, slopes=slopes), loop(case, slopes=slopes))


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("window", "softcap", "is_sloped"),
    [(None, None, False), (500, None, False), (None, 30.0, False), (None, None, True), (500, 30.0, True)],
)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "block_size"), [(32, 8, 128, 16), (16, 8, 256, 32), (8, 8, 80, 64)]
)
def test_on_a_gpu(dtype, window, softcap, is_sloped, heads, kv_heads, size, block_size):
    """Fresh random lengths at serving size: long contexts, decode beside prompts."""
    torch.seed()
    queries = torch.randint(1, 5, (24,)).tolist() + torch.randint(5, 700, (8,)).tolist() + [0, 0]
    lengths = [0 if count == 0 else count + int(torch.randint(0, 3000, ())) for count in queries]
    case = make(lengths, queries, heads, kv_heads, size, block_size, dtype).to(torch.device("cuda"))
    slopes = slopes_of(heads).cuda() if is_sloped else None
    k_cache, v_cache = case.caches
    step = case.step(window, softcap, slopes=slopes)
    expected = paged_attention_reference(case.q.double(), k_cache.double(), v_cache.double(), step)
    check(paged_attention(case.q, *case.caches, step), expected.cpu())
