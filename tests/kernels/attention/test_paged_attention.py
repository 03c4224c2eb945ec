"""Paged attention against a loop over tokens, heads and keys in float64; everything that must not be read holds NaN."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tests.kernels.attention.cases import Case, loop, make, stored

from multiflora_kernels.attention.paged_attention import paged_attention, paged_attention_reference
from multiflora_kernels.runtime.native import has_native

LENGTHS = [1, 15, 16, 17, 33, 70, 16]
QUERIES = [1, 1, 16, 3, 33, 40, 1]


def check(near, case: Case, window: int | None = None, softcap: float | None = None) -> None:
    near(paged_attention(case.q, *case.caches, case.step(window, softcap)), loop(case, window, softcap))


@pytest.mark.parametrize("window", [None, 5, 20])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_reference(near, window, softcap):
    case = make(LENGTHS, QUERIES)
    k_cache, v_cache = case.caches
    y = paged_attention_reference(case.q.double(), k_cache.double(), v_cache.double(), case.step(window, softcap))
    near(y, loop(case, window, softcap))


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (6, 2), (8, 1)])
@pytest.mark.parametrize("size", [32, 64, 80, 128])
def test_mixed_prefill_and_decode(path, near, heads, kv_heads, size):
    check(near, make(LENGTHS, QUERIES, heads, kv_heads, size))


@pytest.mark.parametrize("block_size", [5, 16, 32])
@pytest.mark.parametrize("window", [None, 1, 7, 16, 40])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_masks(path, near, block_size, window, softcap):
    check(near, make(LENGTHS, QUERIES, block_size=block_size), window, softcap)


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (6, 2), (3, 1)])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 7])
def test_slopes(path, near, heads, kv_heads, softcap, window):
    """ALiBi, alone and with what else changes scores; each head has another slope."""
    case = make([*LENGTHS, 300], [*QUERIES, 1], heads, kv_heads)
    slopes = 2.0 ** -torch.arange(1, heads + 1).float()
    step = case.step(window, softcap, slopes=slopes)
    expected = loop(case, window, softcap, slopes)
    near(paged_attention_reference(case.q, *case.caches, step), expected)
    near(paged_attention(case.q, *case.caches, step), expected)


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (6, 2), (3, 1)])
@pytest.mark.parametrize("window", [None, 7])
def test_sinks(path, near, heads, kv_heads, window):
    """Below, among and far above the scores of keys; each head has another."""
    case = make([*LENGTHS, 300], [*QUERIES, 1], heads, kv_heads)
    sinks = torch.linspace(-20, 12, heads)
    expected = loop(case, window, sinks=sinks)
    near(paged_attention_reference(case.q, *case.caches, case.step(window), sinks), expected)
    near(paged_attention(case.q, *case.caches, case.step(window), sinks), expected)


@pytest.mark.parametrize("size", [24, 96, 256])
def test_other_head_sizes(path, near, size):
    check(near, make([33, 18], [1, 17], 3, 1, size))


@pytest.mark.parametrize("tokens", [1, 2, 3, 17])
def test_one_sequence(path, near, tokens):
    check(near, make([tokens], [tokens]))
    check(near, make([tokens + 50], [tokens]))


def test_a_sequence_without_queries(path, near):
    check(near, make([20, 9, 4], [1, 0, 4]))


def test_long_contexts(path, near):
    check(near, make([700, 300], [1, 290], 2, 1))


def test_large_scores_do_not_overflow(path, near):
    case = make(LENGTHS, QUERIES)
    case.q *= 300
    check(near, case)


def test_blocks_before_the_window_are_not_read(path, near):
    if path == "torch":
        pytest.skip("the torch path masks what it gathers")
    case = make([70, 80], [1, 20])
    expected = loop(case, 10)
    k_cache, v_cache, _, _, tables = case.arguments
    for s, freed in ((0, 3), (1, 3)):
        k_cache[tables[s, :freed].long()] = math.nan
        v_cache[tables[s, :freed].long()] = math.nan
    near(paged_attention(case.q, *case.caches, case.step(10)), expected)


def test_one_bad_sequence_stays_alone(path):
    case = make([20, 20, 20], [1, 5, 1])
    case.q[3, 0, 0] = math.nan
    y = paged_attention(case.q, *case.caches, case.step())
    assert torch.isnan(y[3, 0]).all()
    y[3, 0] = 0
    assert torch.isfinite(y).all()


def test_threads_do_not_change_a_bit(path):
    case = make(LENGTHS * 3, QUERIES * 3)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(paged_attention(case.q, *case.caches, case.step()))
    torch.set_num_threads(threads)
    torch.testing.assert_close(*results, rtol=0, atol=0 if path == "native" else 1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(path, dtype):
    case = make([17, 33], [1, 9], dtype=dtype)
    y = paged_attention(case.q, *case.caches, case.step())
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), loop(case), rtol=0, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (6, 2), (8, 1)])
@pytest.mark.parametrize("size", [32, 64, 80, 128, 256])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (7, None), (40, 2.0)])
def test_prompts_rounded_to_bfloat16(path, heads, kv_heads, size, window, softcap):
    """Sums stay float32: what is off is what queries, keys, values and softmax weights lose, half of 2^-8 of each."""
    case = make([*LENGTHS, 300, 131], [*QUERIES, 1, 131], heads, kv_heads, size)
    slopes, sinks = 2.0 ** -torch.arange(1, heads + 1).float(), torch.linspace(-2, 3, heads)
    exact = case.step(window, softcap, slopes=slopes)
    y = paged_attention(case.q, *case.caches, replace(exact, rounds=True), sinks)
    unrounded = paged_attention(case.q, *case.caches, exact, sinks)
    largest = max(value.abs().max() for value in case.values)
    assert (y - unrounded).abs().max() <= largest * 2.0**-6
    is_rounded = path == "native" and has_native("multiflora_bfloat16_dots") and size != 80
    assert torch.equal(y, unrounded) is not is_rounded
    decoded = case.arguments[2][:-1].long()[torch.tensor([*QUERIES, 1, 131]) == 1]
    assert torch.equal(y[decoded], unrounded[decoded]), "answers are not rounded"


def test_rounded_prompts_of_quantised_caches_and_bad_rows(path):
    case = make([40, 20], [40, 20], 4, 2, 64)
    case.q[3, 0, 0] = math.nan
    y = paged_attention(case.q, *case.caches, replace(case.step(), rounds=True))
    assert torch.isnan(y[3, 0]).all()
    y[3, 0] = 0
    assert torch.isfinite(y).all()
    codes = stored(case, torch.int8)
    exact = paged_attention(case.q.nan_to_num(), *codes, case.step())
    y = paged_attention(case.q.nan_to_num(), *codes, replace(case.step(), rounds=True))
    assert (y - exact).abs().max() <= 2.0**-5


@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(4, 2, 32), (6, 2, 64), (3, 1, 80), (2, 2, 24)])
@pytest.mark.parametrize(("block_size", "window"), [(5, None), (16, 7), (32, None)])
@pytest.mark.parametrize("rounds", [False, True])
def test_keys_and_values_in_bfloat16_beside_float32(path, heads, kv_heads, size, block_size, window, rounds):
    case = make([*LENGTHS, 300], [*QUERIES, 1], heads, kv_heads, size, block_size, torch.bfloat16)
    expected = loop(case, window)
    y = paged_attention(case.q.float(), *case.caches, replace(case.step(window), rounds=rounds))
    assert y.dtype == torch.float32
    error = (y - expected).abs().max() / max(value.abs().max() for value in case.values)
    assert error <= (2.0**-6 if rounds else 1e-5)
