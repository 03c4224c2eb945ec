"""Codes and scales of quantised caches in Triton: helpers of the kernels that read and write them.

What they mean is said in quantised_cache.py. Codes are bytes and scales 16 bits here, converted by their bits.
"""

from __future__ import annotations

from typing import Any

import torch

from multiflora_kernels.attention.quantised_cache import NATIVE_CODECS, codes_and_scales, is_quantised
from multiflora_kernels.runtime.triton import jit, tl

CODEC_NAMES = ("", " int8", " e4m3", " e5m2")
"""By CODEC: what tells a kernel's variants apart in the ahead-of-time table."""


@jit
def decoded_scales(halves: tl.tensor) -> tl.tensor:
    """bfloat16 as 16 bits, as float32."""
    return (halves.to(tl.int32) << 16).to(tl.float32, bitcast=True)


@jit
def scale_bits(largest: tl.tensor, CODEC: tl.constexpr) -> tl.tensor:
    """The scales of heads whose largest magnitudes are `largest`, NaN where one is not finite: bfloat16 as the low 16
    bits of int32."""
    LIMIT: tl.constexpr = 127.0 if CODEC == 1 else (448.0 if CODEC == 2 else 57344.0)
    bits = (tl.where(largest < 1e-30, 1e-30, largest) / LIMIT).to(tl.int32, bitcast=True)
    halves = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # A card's NaN has all bits but the sign: rounding would carry it over to -0.0.
    return tl.where(largest < float("inf"), halves, 0x7FC0)


@jit
def encoded(x: tl.tensor, CODEC: tl.constexpr) -> tl.tensor:
    """Float32 within the codes' range as bytes, rounded to the nearest, halves to even."""
    if CODEC == 1:
        # Adding 1.5 * 2**23 leaves no bits for fractions, and the integer in the lowest ones.
        return ((x + 12582912.0).to(tl.int32, bitcast=True) & 0xFF).to(tl.uint8)
    MANTISSA: tl.constexpr = 3 if CODEC == 2 else 2
    BIAS: tl.constexpr = 7 if CODEC == 2 else 15
    CUT: tl.constexpr = 23 - MANTISSA
    STEPS: tl.constexpr = float(1 << (24 - MANTISSA - BIAS))
    STEPS_BITS: tl.constexpr = (127 + 24 - MANTISSA - BIAS) << 23
    bits = x.to(tl.int32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    # Below the smallest normal code steps no longer shrink: a sum whose last bit is such a step rounds.
    small = (tl.abs(x) + STEPS).to(tl.int32, bitcast=True) - STEPS_BITS
    normal = magnitude + ((1 << (CUT - 1)) - 1) + ((magnitude >> CUT) & 1)
    normal = (normal >> CUT) - ((127 - BIAS) << MANTISSA)
    code = tl.where(magnitude < ((128 - BIAS) << 23), small, normal)
    return (((bits >> 24) & 0x80) | code).to(tl.uint8)


def codec_arguments(cache: torch.Tensor, head_size: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """(what kernels read as the cache [blocks, Hk, block_size, D], its scales [blocks, Hk, block_size] as int16,
    CODEC); a cache that is not quantised is its own scales, which are not read, and its CODEC is 0."""
    if not is_quantised(cache):
        return cache, cache, 0
    codes, scales = codes_and_scales(cache, head_size)
    return codes.view(torch.uint8), scales.view(torch.int16), NATIVE_CODECS[cache.dtype]


def signature(dtype: str, codec: int) -> dict[str, Any]:
    """Types of a kernel's cache and scale arguments, for the ahead-of-time table."""
    caches, scales = (f"*{dtype}", f"*{dtype}") if codec == 0 else ("*u8", "*i16")
    return dict.fromkeys(("k_cache", "v_cache"), caches) | dict.fromkeys(("k_scales", "v_scales"), scales)
