"""Rotary position embedding of queries and keys, and the write of keys and values to the paged cache.

Owns the layout of that write. Does not know how the cosine and sine tables are scaled.
"""

from __future__ import annotations

import struct

import torch

from multiflora_kernels.attention.quantised_cache import NATIVE_CODECS, is_quantised, write_tokens
from multiflora_kernels.lora.fused_linear import ShrunkDelta
from multiflora_kernels.rms_norm import rms_norm, rms_norm_reference
from multiflora_kernels.rope.lora_triton import folds_into_rope, rope_lora_triton
from multiflora_kernels.rope.qk_norm import QKNorm
from multiflora_kernels.rope.step import RopeStep
from multiflora_kernels.rope.triton import rope_and_write_kv_triton
from multiflora_kernels.runtime.native import native_function


def rotate_(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """x: [T, heads, D], cos, sin: [T, 1, R/2]; the first R dimensions of x are rotated in place."""
    half = cos.shape[-1]
    first, second = x[..., :half].to(cos.dtype), x[..., half : 2 * half].to(cos.dtype)
    x[..., :half], x[..., half : 2 * half] = first * cos - second * sin, second * cos + first * sin


def rope_and_write_kv_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    rope: RopeStep,
    norms: QKNorm | None = None,
) -> torch.Tensor:
    """q: [T, Hq, D], k, v: [T, Hk, D]; k_cache, v_cache: [blocks, Hk, block_size, D], or quantised (see
    attention/quantised_cache.py). Returns the rotated queries [T, Hq, D].

    Semantics (half-split, arXiv:2104.09864 as in GPT-NeoX): q and k go through `norms` first if there are any; then,
    with h = R/2, x[t, :, i] = x_i cos - x_{i+h} sin and x[t, :, i+h] = x_{i+h} cos + x_i sin at positions[t], i < h;
    the rest stays. Then k_cache[slot // block_size, :, slot % block_size] = k[t], the same for v, with
    slot = kv_slots[t]. A slot of -1 marks a row that only fills up a batch: nothing of it is written to the caches.
    """
    if norms is not None:
        q, k = rms_norm_reference(q, norms.q, norms.eps), rms_norm_reference(k, norms.k, norms.eps)
    cos, sin = rope.cos[rope.positions].unsqueeze(1), rope.sin[rope.positions].unsqueeze(1)
    rotate_(q, cos, sin)
    rotate_(k, cos, sin)
    written = rope.kv_slots >= 0
    write_tokens(k_cache, rope.kv_slots[written], k[written])
    write_tokens(v_cache, rope.kv_slots[written], v[written])
    return q


_ARGUMENTS = struct.Struct("9q 8q 6q")
"""RopeArgs of native/rows.cpp."""


def _native_fits(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, rope: RopeStep
) -> bool:
    return (
        q.dtype == k.dtype == v.dtype == torch.float32
        and k_cache.dtype == v_cache.dtype
        and k_cache.dtype in NATIVE_CODECS
        and rope.cos.dtype == rope.sin.dtype == torch.float32
        and q.stride(2) == k.stride(2) == v.stride(2) == rope.cos.stride(1) == 1
        and rope.cos.stride() == rope.sin.stride()
        and k_cache.is_contiguous()
        and v_cache.is_contiguous()
    )


def _rope_and_write_kv_cpu(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    rope: RopeStep,
    norms: QKNorm | None,
) -> torch.Tensor:
    # Norms are a call of their own here: on a CPU a launch costs nothing that fusing them would save.
    if norms is not None:
        q, k = rms_norm(q, norms.q, norms.eps), rms_norm(k, norms.k, norms.eps)
    native = native_function("multiflora_rope_and_write_kv", "p")
    if native is None or not _native_fits(q, k, v, k_cache, v_cache, rope):
        return rope_and_write_kv_reference(q, k, v, k_cache, v_cache, rope)
    assert rope.positions.dtype == rope.kv_slots.dtype == torch.int64, "the kernel reads int64"
    tokens, q_heads, size = q.shape
    arguments = _ARGUMENTS.pack(
        q.data_ptr(), k.data_ptr(), v.data_ptr(), rope.cos.data_ptr(), rope.sin.data_ptr(),
        rope.positions.data_ptr(), rope.kv_slots.data_ptr(), k_cache.data_ptr(), v_cache.data_ptr(),
        tokens, q_heads, k.shape[1], size, rope.cos.shape[1], rope.cos.stride(0), k_cache.stride(1),
        NATIVE_CODECS[k_cache.dtype], q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1),
    )  # fmt: skip
    native(arguments)
    return q


def fold_into_rope(
    y: torch.Tensor, delta: ShrunkDelta | None, head_size: int, rotary: int, k_cache: torch.Tensor
) -> ShrunkDelta | None:
    """What of `delta` the kernel adds to q, k and v as it reads them; what it cannot is added to y [T, N] now."""
    if delta is None or (folds_into_rope(delta, head_size, rotary) and not is_quantised(k_cache)):
        return delta
    delta.add_to_(y)
    return None


def rope_and_write_kv(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    rope: RopeStep,
    norms: QKNorm | None = None,
    delta: ShrunkDelta | None = None,
) -> torch.Tensor:
    """q: [T, Hq, D], k, v: [T, Hk, D], which may be views of one qkv tensor; caches: [blocks, Hk, block_size, D].
    Returns the rotated queries [T, Hq, D] and writes k and v to their cache slots.

    delta: what is still to be added to that tensor, as `fold_into_rope` leaves it.
    q and k are used up: q may or may not be what is returned, k may or may not have been rotated in place. Positions
    and slots must lie inside the tables and caches (or a slot be -1): nothing checks them. See
    `rope_and_write_kv_reference`.
    """
    if delta is not None:
        return rope_lora_triton(q, k, v, k_cache, v_cache, rope, norms, delta)
    if q.device.type == "cpu":
        return _rope_and_write_kv_cpu(q, k, v, k_cache, v_cache, rope, norms)
    op = rope_and_write_kv_triton if q.device.type == "cuda" else rope_and_write_kv_reference
    return op(q, k, v, k_cache, v_cache, rope, norms)
