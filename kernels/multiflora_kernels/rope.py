"""Rotary position embedding of queries and keys, and the write of keys and values to the paged cache.

Owns the layout of that write. Does not know how the cosine and sine tables are scaled.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import torch

from .native_library import native_function
from .rms_norm import rms_norm, rms_norm_reference
from .triton_runtime import KernelVariant, jit, tl


class HeadNorms(NamedTuple):
    """RMS norms of every query and key head before the rotation (Qwen3). q, k: [D] weights."""

    q: torch.Tensor
    k: torch.Tensor
    eps: float


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
    norms: HeadNorms | None = None,
) -> torch.Tensor:
    """q: [T, Hq, D], k, v: [T, Hk, D]; cos, sin: [P, R/2]; positions, kv_slots: [T] int64.

    k_cache, v_cache: [blocks, Hk, block_size, D]. Returns the turned queries [T, Hq, D].

    Semantics (half-split, arXiv:2104.09864 as in GPT-NeoX): q and k go through `norms` first if there are any; then,
    with h = R/2, x[t, :, i] = x_i cos - x_{i+h} sin and x[t, :, i+h] = x_{i+h} cos + x_i sin at positions[t], i < h;
    the rest stays. Then k_cache[slot // block_size, :, slot % block_size] = k[t], the same for v. A slot of -1 marks a
    row that only fills up a batch: nothing of it is written to the caches.
    """
    if norms is not None:
        q, k = rms_norm_reference(q, norms.q, norms.eps), rms_norm_reference(k, norms.k, norms.eps)
    cos_t, sin_t = cos[positions].unsqueeze(1), sin[positions].unsqueeze(1)
    _rotate_(q, cos_t, sin_t)
    _rotate_(k, cos_t, sin_t)
    written = kv_slots >= 0
    block_size, slots = k_cache.shape[2], kv_slots[written]
    block, offset = slots // block_size, slots % block_size
    k_cache[block, :, offset] = k[written]
    v_cache[block, :, offset] = v[written]
    return q


@jit
def _turn(
    out: tl.tensor,
    x: tl.tensor,
    written: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    norm: tl.tensor,
    eps: tl.tensor,
    SIZE: tl.constexpr,
    HALF: tl.constexpr,
    HEADS: tl.constexpr,
    PAIRS: tl.constexpr,
    REST: tl.constexpr,
    NORMED: tl.constexpr,
) -> None:
    """out, x: pointers [HEADS, 1] to heads, which may be the same; written: [HEADS, 1]. cos, sin: pointers to a row.

    norm: pointer to [SIZE], read if NORMED. REST: 0, or a power of two that holds what does not turn.
    """
    dtype: tl.constexpr = x.dtype.element_ty
    # Whole tiles of addresses, also where all heads read the same row: each value then arrives where it is used.
    pair = tl.broadcast_to(tl.arange(0, PAIRS)[None, :], (HEADS, PAIRS))
    inside = written & (pair < HALF)
    first = tl.load(x + pair, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(x + HALF + pair, mask=inside, other=0.0).to(tl.float32)
    c = tl.load(cos + pair, mask=pair < HALF, other=0.0)
    s = tl.load(sin + pair, mask=pair < HALF, other=0.0)
    if REST > 0:
        tail = 2 * HALF + tl.broadcast_to(tl.arange(0, REST)[None, :], (HEADS, REST))
        kept = written & (tail < SIZE)
        rest = tl.load(x + tail, mask=kept, other=0.0).to(tl.float32)
    if NORMED:
        squares = tl.sum(first * first + second * second, axis=1)
        if REST > 0:
            squares += tl.sum(rest * rest, axis=1)
            rest_norm = tl.load(norm + tail, mask=tail < SIZE, other=0.0).to(tl.float32)
        scale = tl.rsqrt(squares / SIZE + eps)[:, None]
        first_norm = tl.load(norm + pair, mask=pair < HALF, other=0.0).to(tl.float32)
        second_norm = tl.load(norm + HALF + pair, mask=pair < HALF, other=0.0).to(tl.float32)
        first = _rounded(_rounded(first * scale, dtype) * first_norm, dtype)
        second = _rounded(_rounded(second * scale, dtype) * second_norm, dtype)
        if REST > 0:
            rest = _rounded(rest * scale, dtype) * rest_norm
    tl.store(out + pair, (first * c - second * s).to(out.dtype.element_ty), mask=inside)
    tl.store(out + HALF + pair, (second * c + first * s).to(out.dtype.element_ty), mask=inside)
    if REST > 0:
        tl.store(out + tail, rest.to(out.dtype.element_ty), mask=kept)


@jit
def _rounded(x: tl.tensor, DTYPE: tl.constexpr) -> tl.tensor:
    return x.to(DTYPE).to(tl.float32)


@jit
def _rope_kernel(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    positions: tl.tensor,
    kv_slots: tl.tensor,
    k_cache: tl.tensor,
    v_cache: tl.tensor,
    q_norm: tl.tensor,
    k_norm: tl.tensor,
    eps: tl.tensor,
    q_token: tl.tensor,
    q_head: tl.tensor,
    k_token: tl.tensor,
    k_head: tl.tensor,
    v_token: tl.tensor,
    v_head: tl.tensor,
    table_row: tl.tensor,
    cache_block: tl.tensor,
    cache_head: tl.tensor,
    cache_row: tl.tensor,
    block_size: tl.tensor,
    Q_HEADS: tl.constexpr,
    K_HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    HALF: tl.constexpr,
    HEADS: tl.constexpr,
    PAIRS: tl.constexpr,
    REST: tl.constexpr,
    WIDTH: tl.constexpr,
    NORMED: tl.constexpr,
) -> None:
    """Program (t, c) does HEADS heads of token t: first come the parts of q, then those of k, then those of v.

    q turns in place; k is read, turned and stored in the cache only; v is copied to the cache.
    """
    token = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    q_parts: tl.constexpr = (Q_HEADS + HEADS - 1) // HEADS
    k_parts: tl.constexpr = (K_HEADS + HEADS - 1) // HEADS
    position = tl.load(positions + token)
    slot = tl.load(kv_slots + token)
    cached = slot // block_size * cache_block + slot % block_size * cache_row
    cos += position * table_row
    sin += position * table_row
    if part < q_parts:
        heads = part * HEADS + tl.arange(0, HEADS)[:, None]
        x = q + token * q_token + heads * q_head
        _turn(x, x, heads < Q_HEADS, cos, sin, q_norm, eps, SIZE, HALF, HEADS, PAIRS, REST, NORMED)
    elif part < q_parts + k_parts:
        heads = (part - q_parts) * HEADS + tl.arange(0, HEADS)[:, None]
        x = k + token * k_token + heads * k_head
        written = (heads < K_HEADS) & (slot >= 0)
        _turn(
            k_cache + cached + heads * cache_head,
            x,
            written,
            cos,
            sin,
            k_norm,
            eps,
            SIZE,
            HALF,
            HEADS,
            PAIRS,
            REST,
            NORMED,
        )
    else:
        heads = (part - q_parts - k_parts) * HEADS + tl.arange(0, HEADS)[:, None]
        column = tl.arange(0, WIDTH)[None, :]
        inside = (heads < K_HEADS) & (slot >= 0) & (column < SIZE)
        values = tl.load(v + token * v_token + heads * v_head + column, mask=inside)
        tl.store(v_cache + cached + heads * cache_head + column, values.to(v_cache.dtype.element_ty), mask=inside)


_HEADS = 8
"""Heads of one program: two warps then move 16 bytes per thread for heads of 128."""


def _power(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _constants(q_heads: int, k_heads: int, size: int, half: int, normed: bool) -> dict[str, int | bool]:
    rest = size - 2 * half
    return {
        "Q_HEADS": q_heads,
        "K_HEADS": k_heads,
        "SIZE": size,
        "HALF": half,
        "HEADS": min(_HEADS, _power(q_heads)),
        "PAIRS": _power(half),
        "REST": _power(rest) if rest else 0,
        "WIDTH": _power(size),
        "NORMED": normed,
    }


def rope_and_write_kv_triton(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,
    kv_slots: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    norms: HeadNorms | None = None,
) -> torch.Tensor:
    """As `rope_and_write_kv`: one launch, with the norms in it."""
    tokens, q_heads, size = q.shape
    k_heads, half = k.shape[1], cos.shape[1]
    assert q.stride(2) == k.stride(2) == v.stride(2) == cos.stride(1) == sin.stride(1) == 1, "rows are contiguous"
    assert cos.stride() == sin.stride()
    assert k_cache.stride() == v_cache.stride()
    assert k_cache.stride(3) == 1
    assert cos.dtype == sin.dtype == torch.float32
    constants = _constants(q_heads, k_heads, size, half, norms is not None)
    q_norm, k_norm, eps = (cos, cos, 0.0) if norms is None else norms
    if tokens:
        heads = constants["HEADS"]
        grid = (tokens, -(-q_heads // heads) + 2 * -(-k_heads // heads))
        _rope_kernel[grid](
            q, k, v, cos, sin, positions, kv_slots, k_cache, v_cache, q_norm, k_norm, eps,
            q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1), cos.stride(0),
            *k_cache.stride()[:3], k_cache.shape[2], **constants, num_warps=2,
        )  # fmt: skip
    return q


def kernel_variants() -> Iterator[KernelVariant]:
    """For the ahead-of-time table: Llama's heads, Qwen3's normed ones, partial rotation (Phi), in two dtypes."""
    forms = {
        "llama": (32, 8, 128, 64, False),
        "qwen3": (32, 8, 128, 64, True),
        "phi": (24, 8, 128, 48, False),
        "heads of 256": (16, 1, 256, 128, False),
    }
    for name, form in forms.items():
        for dtype in ("bf16", "fp32"):
            constants = _constants(*form)
            pointers = {"q": dtype, "k": dtype, "v": dtype, "cos": "fp32", "sin": "fp32", "positions": "i64"}
            pointers |= {"kv_slots": "i64", "k_cache": dtype, "v_cache": dtype, "q_norm": dtype, "k_norm": dtype}
            strides = ["q_token", "q_head", "k_token", "k_head", "v_token", "v_head", "table_row"]
            strides += ["cache_block", "cache_head", "cache_row", "block_size"]
            yield KernelVariant(
                f"rope {name} {dtype}",
                _rope_kernel,
                {name: f"*{kind}" for name, kind in pointers.items()}
                | {"eps": "fp32"}
                | dict.fromkeys(strides, "i32")
                | dict.fromkeys(constants, "constexpr"),
                constants,
                options={"num_warps": 2},
            )


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


def _rope_and_write_kv_cpu(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,
    kv_slots: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    norms: HeadNorms | None = None,
) -> torch.Tensor:
    if norms is not None:
        q, k = rms_norm(q, norms.q, norms.eps), rms_norm(k, norms.k, norms.eps)
    native = native_function("multiflora_rope_and_write_kv", "p")
    if native is None or not _native_fits(q, k, v, cos, sin, k_cache, v_cache):
        return rope_and_write_kv_reference(q, k, v, cos, sin, positions, kv_slots, k_cache, v_cache)
    assert positions.dtype == kv_slots.dtype == torch.int64, "the kernel reads int64"
    tokens, q_heads, size = q.shape
    arguments = _ARGUMENTS.pack(
        q.data_ptr(), k.data_ptr(), v.data_ptr(), cos.data_ptr(), sin.data_ptr(),
        positions.data_ptr(), kv_slots.data_ptr(), k_cache.data_ptr(), v_cache.data_ptr(),
        tokens, q_heads, k.shape[1], size, cos.shape[1], cos.stride(0), k_cache.shape[2],
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1),
    )  # fmt: skip
    native(arguments)
    return q


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
    norms: HeadNorms | None = None,
) -> torch.Tensor:
    """Returns the turned queries and writes k and v to their cache slots; q, k, v may be views of one qkv tensor.

    q and k are used up: q may or may not be what is returned, k may or may not have turned in place. Positions and
    slots must lie inside the tables and caches (or a slot be -1): nothing checks them. See
    `rope_and_write_kv_reference`.
    """
    paths = {"cuda": rope_and_write_kv_triton, "cpu": _rope_and_write_kv_cpu}
    op = paths.get(q.device.type, rope_and_write_kv_reference)
    return op(q, k, v, cos, sin, positions, kv_slots, k_cache, v_cache, norms)
