"""Rotation and cache write against a loop over every pair of dimensions."""

from __future__ import annotations

import math
from unittest.mock import patch

import numpy as np
import pytest
import torch

from multiflora_kernels.attention.quantised_cache import cache_shape, read_blocks
from multiflora_kernels.rope.qk_norm import QKNorm
from multiflora_kernels.rope.rope_and_kv import rope_and_write_kv, rope_and_write_kv_reference
from multiflora_kernels.rope.step import RopeStep
from multiflora_kernels.rope.triton import rope_and_write_kv_triton
from multiflora_kernels.runtime.triton import INTERPRETED

CARDS_NAN = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32).item()
"""The NaN that operations of an NVIDIA GPU have for a result."""
POSITIONS = 40


def tables(rotary: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    angle = torch.arange(POSITIONS, dtype=torch.float64)[:, None] * 10000.0 ** (
        -torch.arange(rotary // 2, dtype=torch.float64) / (rotary // 2)
    )
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotated(x: torch.Tensor, positions: torch.Tensor, rotary: int) -> torch.Tensor:
    out, half = x.double().clone(), rotary // 2
    for t, position in enumerate(positions.tolist()):
        for i in range(half):
            angle = position * 10000.0 ** (-i / half)
            a, b = x[t, :, i].double(), x[t, :, i + half].double()
            out[t, :, i] = a * math.cos(angle) - b * math.sin(angle)
            out[t, :, i + half] = b * math.cos(angle) + a * math.sin(angle)
    return out


def split(qkv: torch.Tensor, heads: int, kv_heads: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return qkv[:, :heads], qkv[:, heads : heads + kv_heads], qkv[:, heads + kv_heads :]


def check_caches(near, caches, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """Every slot holds its token, and what no slot names still holds the 7 that it held before."""
    untouched = torch.ones(caches[0].shape[0], caches[0].shape[2], dtype=torch.bool)
    for t, slot in enumerate(slots.tolist()):
        if slot >= 0:
            block, offset = divmod(slot, caches[0].shape[2])
            near(caches[0][block, :, offset], k[t])
            assert torch.equal(caches[1][block, :, offset], v[t])
            untouched[block, offset] = False
    for cache in caches:
        assert (cache.transpose(1, 2)[untouched] == 7.0).all()


@pytest.mark.parametrize("op", [rope_and_write_kv, rope_and_write_kv_reference])
@pytest.mark.parametrize("tokens", [1, 2, 3, 17])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "rotary"),
    [(4, 4, 32, 32), (6, 2, 64, 64), (8, 1, 80, 32), (2, 2, 96, 48), (4, 2, 128, 128)],
)
@pytest.mark.parametrize("block_size", [16, 32])
def test_views_of_one_qkv_tensor(path, near, op, tokens, heads, kv_heads, size, rotary, block_size):
    q, k, v = split(torch.randn(tokens, heads + 2 * kv_heads, size), heads, kv_heads)
    positions = torch.randint(POSITIONS, (tokens,))
    slots = torch.randperm(4 * block_size)[:tokens]
    expected_q, expected_k, expected_v = rotated(q, positions, rotary), rotated(k, positions, rotary), v.clone()
    caches = [torch.full((4, kv_heads, block_size, size), 7.0) for _ in range(2)]
    near(op(q, k, v, *caches, RopeStep(*tables(rotary), positions, slots)), expected_q)
    assert torch.equal(v, expected_v)
    check_caches(near, caches, slots, expected_k, expected_v)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rotated_in_float32(path, dtype):
    q, k, v = split(torch.randn(3, 8, 64, dtype=dtype), 4, 2)
    positions, slots = torch.tensor([5, 0, 39]), torch.tensor([1, 17, 3])
    expected = rotated(q, positions, 64)
    caches = [torch.zeros(2, 2, 16, 64, dtype=dtype) for _ in range(2)]
    result = rope_and_write_kv(q, k, v, *caches, RopeStep(*tables(64), positions, slots))
    torch.testing.assert_close(result.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-3)
    assert torch.equal(caches[0][1, :, 1], k[1])


@pytest.mark.parametrize("op", [rope_and_write_kv, rope_and_write_kv_reference])
@pytest.mark.parametrize("size", [24, 64])
def test_float32_is_cached_in_bfloat16(path, op, size):
    """To the nearest, halves to even; what is not finite stays so, and nothing else becomes so."""
    q, k, v = split(torch.randn(3, 8, size), 4, 2)
    v[0, 0, :6] = torch.tensor([math.nan, math.inf, -math.inf, 1 + 2.0**-8, 1 + 3 * 2.0**-8, 3.4e38])
    positions, slots = torch.tensor([5, 0, 39]), torch.tensor([1, 17, 3])
    expected = rotated(k, positions, size)
    caches = [torch.zeros(2, 2, 16, size, dtype=torch.bfloat16) for _ in range(2)]
    op(q, k, v, *caches, RopeStep(*tables(size), positions, slots))
    for t, slot in enumerate(slots.tolist()):
        block, offset = divmod(slot, 16)
        torch.testing.assert_close(caches[0][block, :, offset].double(), expected[t], rtol=2.0**-8, atol=1e-5)
        torch.testing.assert_close(caches[1][block, :, offset], v[t].bfloat16(), rtol=0, atol=0, equal_nan=True)


def test_many_tokens_on_threads(path, near):
    tokens = 300
    q, k, v = split(torch.randn(tokens, 8, 64), 4, 2)
    positions = torch.arange(tokens) % POSITIONS
    expected = rotated(q, positions, 64)
    caches = [torch.zeros(20, 2, 16, 64) for _ in range(2)]
    rope = RopeStep(*tables(64), positions, torch.arange(tokens))
    near(rope_and_write_kv(q, k, v, *caches, rope), expected)
    assert torch.equal(caches[1].transpose(1, 2).reshape(-1, 2, 64)[:tokens], v)


@pytest.mark.parametrize("op", [rope_and_write_kv, rope_and_write_kv_reference])
def test_rows_that_fill_up_a_batch_write_nothing(path, near, op):
    q, k, v = split(torch.randn(5, 8, 32), 4, 2)
    positions, slots = torch.tensor([3, 0, 7, 0, 0]), torch.tensor([31, -1, 0, -1, -1])
    expected_k, expected_v = rotated(k, positions, 32), v.clone()
    caches = [torch.full((2, 2, 16, 32), 7.0) for _ in range(2)]
    op(q, k, v, *caches, RopeStep(*tables(32), positions, slots))
    check_caches(near, caches, slots, expected_k, expected_v)


def normed(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return weight.double() * x.double() / (x.double().square().mean(-1, keepdim=True) + eps).sqrt()


@pytest.mark.parametrize("op", [rope_and_write_kv, rope_and_write_kv_reference])
def test_heads_are_normed_before_the_rotation(path, near, op):
    q, k, v = split(torch.randn(5, 8, 32) * 3, 4, 2)
    norms = QKNorm(torch.randn(32), torch.randn(32), 1e-5)
    positions, slots = torch.randint(POSITIONS, (5,)), torch.randperm(32)[:5]
    expected_q = rotated(normed(q, norms.q, norms.eps), positions, 16)
    expected_k, expected_v = rotated(normed(k, norms.k, norms.eps), positions, 16), v.clone()
    caches = [torch.full((2, 2, 16, 32), 7.0) for _ in range(2)]
    near(op(q, k, v, *caches, RopeStep(*tables(16), positions, slots), norms), expected_q)
    check_caches(near, caches, slots, expected_k, expected_v)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("is_normed", [False, True])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "rotary", "block_size"),
    [(12, 3, 64, 64, 16), (3, 1, 80, 32, 16), (2, 2, 96, 96, 32), (9, 3, 40, 24, 128)],
)
def test_triton_kernel(kernel_device, dtype, is_normed, heads, kv_heads, size, rotary, block_size):
    tokens, eps = 3, 1e-5
    qkv = torch.randn(tokens, heads + 2 * kv_heads, size).to(dtype)
    q, k, v = split(qkv.clone(), heads, kv_heads)
    positions, slots = torch.tensor([17, 0, 39]), torch.tensor([2 * block_size - 1, -1, 3])
    norms = QKNorm(torch.randn(size).to(dtype), torch.randn(size).to(dtype), eps) if is_normed else None
    expected_q, expected_k = (
        rotated(normed(x, weight, eps) if is_normed else x, positions, rotary)
        for x, weight in ((q, norms and norms.q), (k, norms and norms.k))
    )
    caches = [torch.full((2, kv_heads, block_size, size), 7.0, dtype=dtype, device=kernel_device) for _ in range(2)]
    result = rope_and_write_kv_triton(
        *split(qkv.to(kernel_device), heads, kv_heads),
        *caches,
        RopeStep(*(table.to(kernel_device) for table in (*tables(rotary), positions, slots))),
        norms and QKNorm(norms.q.to(kernel_device), norms.k.to(kernel_device), eps),
    )

    def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
        error = (actual.cpu().double() - expected).abs().max()
        assert error <= 4 * max(torch.finfo(dtype).eps, 1e-6) * expected.abs().max()

    close(result, expected_q)
    check_caches(close, [cache.cpu() for cache in caches], slots, expected_k, v)


@pytest.mark.parametrize(
    ("codes", "size", "rotary", "is_normed"),
    [(torch.int8, 24, 16, True), (torch.float8_e4m3fn, 32, 32, False), (torch.float8_e5m2, 24, 16, False)],
)
def test_triton_kernel_writes_the_bytes_of_the_reference(kernel_device, codes, size, rotary, is_normed):
    """Of large and small heads, of zeros, and of one that is not finite; nothing for rows that fill up a batch."""
    q, k, v = split(torch.randn(9, 8, size) * torch.logspace(-7, 3, 9)[:, None, None], 4, 2)
    v[4], v[5, 0, 1] = 0, math.nan
    norms = QKNorm(torch.randn(size), torch.randn(size), 1e-5) if is_normed else None
    positions, slots = torch.randperm(9), torch.randperm(16)[:9]
    slots[3] = -1
    sides = []
    for op, device in ((rope_and_write_kv_reference, torch.device("cpu")), (rope_and_write_kv_triton, kernel_device)):
        caches = [torch.empty(cache_shape(1, 2, 16, size, codes), dtype=codes, device=device) for _ in range(2)]
        for cache in caches:
            cache.view(torch.uint8).fill_(255)
        rope = RopeStep(*(x.to(device) for x in (*tables(rotary), positions, slots)))
        on_device = norms and QKNorm(norms.q.to(device), norms.k.to(device), norms.eps)
        op(*(x.clone().to(device) for x in (q, k, v)), *caches, rope, on_device)
        sides.append([read_blocks(cache, torch.tensor([0], device=device), size)[0].cpu() for cache in caches])
    for expected, found in zip(*sides, strict=True):
        steps = (expected.abs().amax(-1, keepdim=True) / 8).nan_to_num()
        assert torch.equal(found.isnan(), expected.isnan())
        assert (found != expected)[~expected.isnan()].float().mean() < 0.01
        assert ((found - expected).abs() <= steps)[~expected.isnan()].all()


@pytest.fixture
def maxima_of_a_card():
    """In the interpreter, too, the larger of NaN and a number is the number, where a kernel does not say otherwise."""
    if not INTERPRETED:
        yield
        return
    from triton.runtime.interpreter import interpreter_builder

    def create_maxnumf(left, right):
        return interpreter_builder.binary_op(left, right, np.fmax)

    with patch.object(interpreter_builder, "create_maxnumf", create_maxnumf):
        yield


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.usefixtures("maxima_of_a_card")
@pytest.mark.parametrize("codes", [torch.int8, torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("bad", [math.nan, math.inf, CARDS_NAN])
def test_triton_kernel_writes_nothing_finite_for_a_head_that_is_not(kernel_device, codes, bad):
    """Wherever the value is: in what is rotated of a key, in the rest of it, or in what is attended to."""
    q, k, v = (torch.randn(4, 1, 24) for _ in range(3))
    k[0, 0, 3] = k[1, 0, 20] = v[2, 0, 5] = bad
    caches = [torch.zeros(cache_shape(1, 1, 16, 24, codes), dtype=codes, device=kernel_device) for _ in range(2)]
    rope = RopeStep(*(x.to(kernel_device) for x in (*tables(16), torch.arange(4), torch.arange(4))))
    rope_and_write_kv_triton(*(x.to(kernel_device) for x in (q, k, v)), *caches, rope)
    keys, values = (read_blocks(cache, torch.tensor([0], device=kernel_device), 24)[0, 0, :4].cpu() for cache in caches)
    for read, expected in ((keys, [False, False, True, True]), (values, [True, True, False, True])):
        assert read.isfinite().all(-1).tolist() == read.isfinite().any(-1).tolist() == expected


@pytest.mark.parametrize("rotary", [32, 24])
def test_triton_kernel_multiplies_by_float32_norms_before_it_rounds(kernel_device, rotary):
    """Equal but for what float32 itself rounds: with a rounding more, every third value would differ."""
    qkv, norms = torch.randn(6, 8, 32).half(), QKNorm(torch.randn(32), torch.randn(32), 1e-6)
    still = torch.zeros(POSITIONS, rotary // 2)
    rope = RopeStep(*(x.to(kernel_device) for x in (still + 1, still, torch.arange(6), torch.arange(6))))
    caches = [torch.zeros(1, 2, 16, 32, dtype=torch.float16, device=kernel_device) for _ in range(2)]
    on_device = QKNorm(norms.q.to(kernel_device), norms.k.to(kernel_device), norms.eps)
    found = rope_and_write_kv_triton(*split(qkv.clone().to(kernel_device), 4, 2), *caches, rope, on_device)
    q, k, _ = split(qkv, 4, 2)
    for actual, x, weight in ((found, q, norms.q), (caches[0][0, :, :6].transpose(0, 1), k, norms.k)):
        expected = normed(x, weight, norms.eps).half()
        assert (actual.cpu() != expected).float().mean() < 0.02


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("tokens", "form"), [(1, (32, 8, 128, 128)), (4097, (32, 8, 128, 128)), (300, (24, 8, 96, 72))]
)
@pytest.mark.parametrize("is_normed", [False, True])
def test_large_inputs_on_a_gpu(tokens, form, is_normed):
    """Against the reference in float64, in bfloat16, with caches that hold NaN before."""
    heads, kv_heads, size, rotary = form
    with torch.device("cuda"):
        qkv = torch.randn(tokens, heads + 2 * kv_heads, size).bfloat16()
        positions, slots = torch.randint(POSITIONS, (tokens,)), torch.randperm(2 * tokens + 16)[:tokens]
        slots[tokens // 2 :: 7] = -1
        norms = QKNorm(torch.randn(size).bfloat16(), torch.randn(size).bfloat16(), 1e-6) if is_normed else None
        shape = (-(-(2 * tokens + 16) // 16), kv_heads, 16, size)
        expected_caches, caches = (
            [torch.full(shape, torch.nan, dtype=dtype) for _ in range(2)] for dtype in (torch.float64, torch.bfloat16)
        )
        narrow, wide = tables(rotary), tables(rotary, torch.float64)
    expected = rope_and_write_kv_reference(
        *split(qkv.double(), heads, kv_heads),
        *expected_caches,
        RopeStep(*wide, positions, slots),
        norms and QKNorm(norms.q.double(), norms.k.double(), 1e-6),
    )
    actual = rope_and_write_kv(*split(qkv, heads, kv_heads), *caches, RopeStep(*narrow, positions, slots), norms)
    # Normed heads reach 16 and round twice more before two of them may cancel.
    tolerances = {"rtol": 2e-2, "atol": 0.15 if is_normed else 0.03, "equal_nan": True}
    torch.testing.assert_close(actual.double(), expected, **tolerances)
    for cache, wanted in zip(caches, expected_caches, strict=True):
        torch.testing.assert_close(cache.double(), wanted, **tolerances)
