"""Rotary position embedding of queries and keys, and the write of keys and values to the paged cache.

Owns the layout of that write. Does not know how the cosine and sine tables are scaled.
"""

from __future__ import annotations

import struct

import torch

from .native_library import native_function


def _rotate_(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """x: [T, heads, D], cos, sin: [T, 1, R/2]; the first R dimensions of x turn in place."""
    half = cos.shape[-1]
    first, second = x[..., :half].to(cos.dtype), x[..., half : 2 * half].to(cos.dtype)
    x[..., :half], x[..., half : 2 * half] = first * cos - second * sin, second * cos + first * sin


def rope_and_write_kv_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,
    kv_slots: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
) -> None:
    """q: [T, Hq, D], k, v: [T, Hk, D]; cos, sin: [P, R/2]; positions, kv_slots: [T] int64.

    k_cache, v_cache: [blocks, Hk, block_size, D].

    Semantics (half-split, arXiv:2104.09864 as in GPT-NeoX): with h = R/2, for q and k in place,
    x[t, :, i] = x_i cos - x_{i+h} sin and x[t, :, i+h] = x_{i+h} cos + x_i sin at positions[t], i < h; the rest stays.
    Then k_cache[slot // block_size, :, slot % block_size] = k[t], the same for v.
    """
    cos_t, sin_t = cos[positions].unsqueeze(1), sin[positions].unsqueeze(1)
    _rotate_(q, cos_t, sin_t)
    _rotate_(k, cos_t, sin_t)
    block_size = k_cache.shape[2]
    block, offset = kv_slots // block_size, kv_slots % block_size
    k_cache[block, :, offset] = k
    v_cache[block, :, offset] = v


_ARGUMENTS = struct.Struct("9q 7q 6q")
"""RopeArgs of native/rows.cpp."""


def _native_fits(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *caches: torch.Tensor
) -> bool:
    return (
        all(t.dtype == torch.float32 for t in (q, k, v, cos, sin, *caches))
        and q.stride(2) == k.stride(2) == v.stride(2) == cos.stride(1) == sin.stride(1) == 1
        and cos.stride(0) == sin.stride(0)
        and all(cache.is_contiguous() for cache in caches)
    )


def rope_and_write_kv(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,
    kv_slots: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
) -> None:
    """Rotates q and k in place, writes k and v to their cache slots; q, k, v may be views of one qkv tensor.

    Positions and slots must lie inside the tables and caches: nothing checks them. See `rope_and_write_kv_reference`.
    """
    native = native_function("multiflora_rope_and_write_kv", "p") if q.device.type == "cpu" else None
    if native is None or not _native_fits(q, k, v, cos, sin, k_cache, v_cache):
        rope_and_write_kv_reference(q, k, v, cos, sin, positions, kv_slots, k_cache, v_cache)
        return
    assert positions.dtype == kv_slots.dtype == torch.int64, "the kernel reads int64"
    tokens, q_heads, size = q.shape
    arguments = _ARGUMENTS.pack(
        q.data_ptr(), k.data_ptr(), v.data_ptr(), cos.data_ptr(), sin.data_ptr(),
        positions.data_ptr(), kv_slots.data_ptr(), k_cache.data_ptr(), v_cache.data_ptr(),
        tokens, q_heads, k.shape[1], size, cos.shape[1], cos.stride(0), k_cache.shape[2],
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1),
    )  # fmt: skip
    native(arguments)
