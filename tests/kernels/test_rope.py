"""Rotation and cache write against a loop over every pair of dimensions."""

from __future__ import annotations

import math

import pytest
import torch

from multiflora_kernels.rope import rope_and_write_kv, rope_and_write_kv_reference

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
    op(q, k, v, *tables(rotary), positions, slots, *caches)
    near(q, expected_q)
    near(k, expected_k)
    assert torch.equal(v, expected_v)
    untouched = torch.ones(4, block_size, dtype=torch.bool)
    for t, slot in enumerate(slots.tolist()):
        block, offset = divmod(slot, block_size)
        assert torch.equal(caches[0][block, :, offset], k[t])
        assert torch.equal(caches[1][block, :, offset], v[t])
        untouched[block, offset] = False
    for cache in caches:
        assert (cache.transpose(1, 2)[untouched] == 7.0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_turns_in_float32(path, dtype):
    q, k, v = split(torch.randn(3, 8, 64, dtype=dtype), 4, 2)
    positions, slots = torch.tensor([5, 0, 39]), torch.tensor([1, 17, 3])
    expected = rotated(q, positions, 64)
    caches = [torch.zeros(2, 2, 16, 64, dtype=dtype) for _ in range(2)]
    rope_and_write_kv(q, k, v, *tables(64), positions, slots, *caches)
    torch.testing.assert_close(q.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-3)
    assert torch.equal(caches[0][1, :, 1], k[1])


def test_many_tokens_on_threads(path, near):
    tokens = 300
    q, k, v = split(torch.randn(tokens, 8, 64), 4, 2)
    positions = torch.arange(tokens) % POSITIONS
    expected = rotated(q, positions, 64)
    caches = [torch.zeros(20, 2, 16, 64) for _ in range(2)]
    rope_and_write_kv(q, k, v, *tables(64), positions, torch.arange(tokens), *caches)
    near(q, expected)
    assert torch.equal(caches[1].transpose(1, 2).reshape(-1, 2, 64)[:tokens], v)
