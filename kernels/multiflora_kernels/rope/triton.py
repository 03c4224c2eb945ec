"""RoPE and the write of keys and values to the paged cache, in Triton: one launch, with the norms of heads in it.

What the op means is said in rope_and_kv.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from multiflora_kernels.attention.quantised_cache import block_size_of
from multiflora_kernels.attention.quantised_triton import (
    CODEC_NAMES,
    codec_arguments,
    decoded_scales,
    encoded,
    scale_bits,
    signature,
)
from multiflora_kernels.rope.qk_norm import QKNorm
from multiflora_kernels.rope.step import RopeStep
from multiflora_kernels.runtime.triton import (
    KernelVariant,
    jit,
    power_of_two,
    rounded,
    tl,
)


@jit
def _amplitude(x: tl.tensor) -> tl.tensor:
    """x: [HEADS, N]. The largest magnitude of each head [HEADS, 1]; NaN where a value is not finite, which a card's
    maxima pass over."""
    return (tl.max(tl.abs(x), axis=1) + tl.sum(x * 0.0, axis=1))[:, None]


@jit
def _rotate(
    out: tl.tensor,
    scales: tl.tensor,
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
    CODEC: tl.constexpr,
) -> None:
    """out, x: pointers [HEADS, 1] to heads, which may be the same; written: [HEADS, 1]. cos, sin: pointers to a row.

    norm: pointer to [SIZE], read if NORMED. REST: 0, or a power of two that holds what is not rotated. CODEC: 0, or
    how out holds codes; scales: then pointers [HEADS, 1] to their scales.
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
        # Rounded where a norm of its own would have rounded the heads, so that both ways give the same values.
        inner: tl.constexpr = norm.dtype.element_ty
        first = rounded(rounded(first * scale, inner) * first_norm, dtype)
        second = rounded(rounded(second * scale, inner) * second_norm, dtype)
        if REST > 0:
            rest = rounded(rest * scale, inner) * rest_norm
    left, right = first * c - second * s, second * c + first * s
    if CODEC:
        # As they would be read from a cache of their own dtype.
        left, right = rounded(left, dtype), rounded(right, dtype)
        largest = tl.maximum(_amplitude(left), _amplitude(right), propagate_nan=tl.PropagateNan.ALL)
        if REST > 0:
            rest = rounded(rest, dtype)
            largest = tl.maximum(largest, _amplitude(rest), propagate_nan=tl.PropagateNan.ALL)
        bits = scale_bits(largest, CODEC)
        scale = decoded_scales(bits)
        tl.store(scales, bits.to(tl.int16), mask=written)
        tl.store(out + pair, encoded(left / scale, CODEC), mask=inside)
        tl.store(out + HALF + pair, encoded(right / scale, CODEC), mask=inside)
        if REST > 0:
            tl.store(out + tail, encoded(rest / scale, CODEC), mask=kept)
    else:
        tl.store(out + pair, left.to(out.dtype.element_ty), mask=inside)
        tl.store(out + HALF + pair, right.to(out.dtype.element_ty), mask=inside)
        if REST > 0:
            tl.store(out + tail, rest.to(out.dtype.element_ty), mask=kept)


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
    k_scales: tl.tensor,
    v_scales: tl.tensor,
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
    CODEC: tl.constexpr,
) -> None:
    """Program (t, c) does HEADS heads of token t: first come the parts of q, then those of k, then those of v.

    q is rotated in place; k is read, rotated and stored in the cache only; v is copied to the cache.
    """
    token = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    q_parts: tl.constexpr = (Q_HEADS + HEADS - 1) // HEADS
    k_parts: tl.constexpr = (K_HEADS + HEADS - 1) // HEADS
    position = tl.load(positions + token)
    slot = tl.load(kv_slots + token)
    cached = slot // block_size * cache_block + slot % block_size * cache_row
    # Scales are two bytes, and their strides half of those of the codes that are bytes.
    scaled = slot // block_size * (cache_block // 2) + slot % block_size
    cos += position * table_row
    sin += position * table_row
    if part < q_parts:
        heads = part * HEADS + tl.arange(0, HEADS)[:, None]
        x = q + token * q_token + heads * q_head
        _rotate(x, x, x, heads < Q_HEADS, cos, sin, q_norm, eps, SIZE, HALF, HEADS, PAIRS, REST, NORMED, 0)
    elif part < q_parts + k_parts:
        heads = (part - q_parts) * HEADS + tl.arange(0, HEADS)[:, None]
        x = k + token * k_token + heads * k_head
        # A negative slot: the row only fills up a graph's batch.
        written = (heads < K_HEADS) & (slot >= 0)
        _rotate(
            k_cache + cached + heads * cache_head,
            k_scales + scaled + heads * (cache_head // 2),
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
            CODEC,
        )
    else:
        heads = (part - q_parts - k_parts) * HEADS + tl.arange(0, HEADS)[:, None]
        column = tl.arange(0, WIDTH)[None, :]
        written = (heads < K_HEADS) & (slot >= 0)
        inside = written & (column < SIZE)
        values = tl.load(v + token * v_token + heads * v_head + column, mask=inside, other=0.0)
        target = v_cache + cached + heads * cache_head + column
        if CODEC:
            wide = values.to(tl.float32)
            bits = scale_bits(_amplitude(wide), CODEC)
            tl.store(v_scales + scaled + heads * (cache_head // 2), bits.to(tl.int16), mask=written)
            tl.store(target, encoded(wide / decoded_scales(bits), CODEC), mask=inside)
        else:
            tl.store(target, values.to(v_cache.dtype.element_ty), mask=inside)


_HEADS = 8
"""Heads of one program: two warps then move 16 bytes per thread for heads of 128."""


def _constants(q_heads: int, k_heads: int, size: int, half: int, normed: bool, codec: int) -> dict[str, int | bool]:
    rest = size - 2 * half
    return {
        "Q_HEADS": q_heads,
        "K_HEADS": k_heads,
        "SIZE": size,
        "HALF": half,
        "HEADS": min(_HEADS, power_of_two(q_heads)),
        "PAIRS": power_of_two(half),
        "REST": power_of_two(rest) if rest else 0,
        "WIDTH": power_of_two(size),
        "NORMED": normed,
        "CODEC": codec,
    }


def rope_and_write_kv_triton(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    rope: RopeStep,
    norms: QKNorm | None = None,
) -> torch.Tensor:
    """As `rope_and_write_kv`: one launch, with the norms in it."""
    cos, sin, (tokens, q_heads, size) = rope.cos, rope.sin, q.shape
    k_heads, half = k.shape[1], cos.shape[1]
    assert q.stride(2) == k.stride(2) == v.stride(2) == cos.stride(1) == sin.stride(1) == 1, "rows are contiguous"
    assert cos.stride() == sin.stride()
    assert k_cache.stride() == v_cache.stride()
    assert cos.dtype == sin.dtype == torch.float32
    k_codes, k_scales, codec = codec_arguments(k_cache, size)
    v_codes, v_scales, _ = codec_arguments(v_cache, size)
    assert k_codes.stride(3) == 1
    constants = _constants(q_heads, k_heads, size, half, norms is not None, codec)
    q_norm, k_norm, eps = (cos, cos, 0.0) if norms is None else norms
    if tokens:
        heads = constants["HEADS"]
        grid = (tokens, -(-q_heads // heads) + 2 * -(-k_heads // heads))
        _rope_kernel[grid](
            q, k, v, cos, sin, rope.positions, rope.kv_slots, k_codes, v_codes, k_scales, v_scales, q_norm, k_norm, eps,
            q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1), cos.stride(0),
            *k_codes.stride()[:3], block_size_of(k_cache, size), **constants, num_warps=2,
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
    plain = [(name, dtype, 0) for name in forms for dtype in ("bf16", "fp32")]
    packed = [("qwen3", "bf16", 1), ("llama", "bf16", 2), ("phi", "bf16", 3), ("heads of 256", "fp32", 1)]
    for name, dtype, codec in plain + packed:
        constants = _constants(*forms[name], codec)
        pointers = {"q": dtype, "k": dtype, "v": dtype, "cos": "fp32", "sin": "fp32", "positions": "i64"}
        pointers |= {"kv_slots": "i64"}
        strides = ["q_token", "q_head", "k_token", "k_head", "v_token", "v_head", "table_row"]
        strides += ["cache_block", "cache_head", "cache_row", "block_size"]
        yield KernelVariant(
            f"rope {name} {dtype}" + CODEC_NAMES[codec],
            _rope_kernel,
            {pointer: f"*{kind}" for pointer, kind in pointers.items()}
            | signature(dtype, codec)
            | {"q_norm": f"*{dtype}", "k_norm": f"*{dtype}", "eps": "fp32"}
            | dict.fromkeys(strides, "i32")
            | dict.fromkeys(constants, "constexpr"),
            constants,
            options={"num_warps": 2},
        )
