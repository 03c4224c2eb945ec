"""Caches in 8 bits: what codes mean, that blocks are filled without changing, and attention over them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tests.kernels.attention.cases import Case, loop, make

from multiflora_kernels.attention.paged_attention import paged_attention, paged_attention_reference
from multiflora_kernels.attention.quantised_cache import (
    LARGEST_CODES,
    cache_shape,
    codes_and_scales,
    quantise,
    read_blocks,
    write_tokens,
)
from multiflora_kernels.rope.rope_and_kv import rope_and_write_kv, rope_and_write_kv_reference
from multiflora_kernels.rope.step import RopeStep

DTYPES = list(LARGEST_CODES)
HALF_STEPS = {torch.int8: 1 / 252, torch.float8_e4m3fn: 2.0**-4, torch.float8_e5m2: 2.0**-3}
"""Of a head's largest value, how far a code may be off at most."""


def empty(blocks: int, kv_heads: int, block_size: int, size: int, dtype: torch.dtype) -> torch.Tensor:
    """Full of bytes that mean NaN."""
    cache = torch.empty(cache_shape(blocks, kv_heads, block_size, size, dtype), dtype=dtype)
    cache.view(torch.uint8).fill_(255)
    return cache


def quantised(case: Case, dtype: torch.dtype) -> Case:
    """The same with both caches in dtype, and with the keys and values that can be read there."""
    k_cache, _, _, lengths, tables = case.arguments
    blocks, kv_heads, block_size, size = k_cache.shape
    caches, read = [], []
    for tokens in (case.keys, case.values):
        cache, found = empty(blocks, kv_heads, block_size, size, dtype), []
        for s, length in enumerate(lengths.tolist()):
            place = torch.arange(length)
            write_tokens(cache, tables[s].long()[place // block_size] * block_size + place % block_size, tokens[s])
            flat = read_blocks(cache, tables[s, : -(-length // block_size)].long(), size)
            found.append(flat.transpose(0, 1).flatten(1, 2)[:, :length].transpose(0, 1))
        caches.append(cache)
        read.append(found)
    return replace(case, keys=read[0], values=read[1], arguments=(*caches, *case.arguments[2:]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_read_is_what_was_written_to_the_codes_rounding(dtype: torch.dtype) -> None:
    x = torch.randn(9, 3, 64) * torch.logspace(-9, 4, 9)[:, None, None]
    x[2, 1] = 0
    codes, scales = quantise(x, dtype)
    assert codes.dtype == dtype
    off = (codes.float() * scales.float()[..., None] - x).abs()
    assert (off <= HALF_STEPS[dtype] * x.abs().amax(-1, keepdim=True)).all()
    assert off[2, 1].max() == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_token_changes_nothing_that_was_written_before(dtype: torch.dtype) -> None:
    """However large it is: another sequence may have read the block's first tokens already."""
    cache = empty(2, 2, 16, 32, dtype)
    write_tokens(cache, torch.arange(5), torch.randn(5, 2, 32))
    codes, scales = (part[0, :, :5].clone() for part in codes_and_scales(cache, 32))
    write_tokens(cache, torch.tensor([5]), torch.full((1, 2, 32), 1e6))
    later_codes, later_scales = (part[0, :, :5] for part in codes_and_scales(cache, 32))
    assert torch.equal(codes.view(torch.uint8), later_codes.contiguous().view(torch.uint8))
    assert torch.equal(scales, later_scales)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_stays_so(path: str, dtype: torch.dtype, bad: float) -> None:
    """Else an adapter whose weights overflow would pass its probe."""
    k, v = torch.randn(2, 2, 1, 32)
    v[1, 0, 3] = bad
    caches = [empty(1, 1, 16, 32, dtype) for _ in range(2)]
    rope = RopeStep(torch.ones(2, 16), torch.zeros(2, 16), torch.arange(2), torch.arange(2))
    rope_and_write_kv(torch.randn(2, 1, 32), k, v, *caches, rope)
    entries = read_blocks(caches[1], torch.tensor([0]), 32)[0, 0]
    assert entries[0].isfinite().all()
    assert not entries[1].isfinite().any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("size", "rotary"), [(32, 32), (80, 32), (24, 24)])
def test_every_path_writes_the_same_bytes(path: str, dtype: torch.dtype, size: int, rotary: int) -> None:
    q, k, v = (torch.randn(40, heads, size) for heads in (4, 2, 2))
    k *= torch.logspace(-7, 3, 40)[:, None, None]
    angles = torch.randn(40, rotary // 2)
    slots = torch.randperm(48)[:40]
    slots[7] = -1
    rope = RopeStep(angles.cos(), angles.sin(), torch.randperm(40), slots)
    sides = []
    for op in (rope_and_write_kv, rope_and_write_kv_reference):
        caches = [empty(3, 2, 16, size, dtype) for _ in range(2)]
        op(q.clone(), k.clone(), v.clone(), *caches, rope)
        sides.append([cache.view(torch.uint8) for cache in caches])
    # Compilers may fuse the rotation's products and sums, which moves a key across the border between two codes.
    assert (sides[0][0] != sides[1][0]).float().mean() < 1e-3
    assert torch.equal(sides[0][1], sides[1][1])


@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(6, 2, 32), (3, 1, 24)])
@pytest.mark.parametrize(
    ("dtype", "form"),
    [
        *zip(DTYPES, ["plain"] * 3, strict=True),
        *((torch.int8, form) for form in ("window", "softcap", "slopes", "sinks")),
    ],
)
def test_attention(path: str, near, heads: int, kv_heads: int, size: int, dtype: torch.dtype, form: str) -> None:
    case = quantised(make([16, 33, 40, 50], [16, 3, 20, 1], heads, kv_heads, size), dtype)
    window, softcap = 7 if form == "window" else None, 2.0 if form == "softcap" else None
    slopes = 2.0 ** -torch.arange(1, heads + 1).float() if form == "slopes" else None
    sinks = torch.linspace(-5, 5, heads) if form == "sinks" else None
    step = case.step(window, softcap, slopes=slopes)
    expected = loop(case, window, softcap, slopes, sinks)
    near(paged_attention_reference(case.q, *case.caches, step, sinks), expected)
    near(paged_attention(case.q, *case.caches, step, sinks), expected)


@pytest.mark.parametrize("block_size", [2, 5, 32])
def test_attention_over_blocks_of_other_sizes(path: str, near, block_size: int) -> None:
    case = quantised(make([1, 33, 40], [1, 20, 1], block_size=block_size), torch.int8)
    near(paged_attention(case.q, *case.caches, case.step()), loop(case))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_queries_of_half_precision(path: str, dtype: torch.dtype) -> None:
    case = quantised(make([17, 33], [1, 9], dtype=dtype), torch.int8)
    y = paged_attention(case.q, *case.caches, case.step())
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), loop(case), rtol=0, atol=4 * torch.finfo(dtype).eps)
