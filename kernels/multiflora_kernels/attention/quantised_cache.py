"""Keys and values in 8 bits: how such a cache lies in memory, and what its codes mean.

A cache of [blocks, Hk, block_size, D] becomes [blocks, Hk, block_size * (D + 2)] of int8 or float8: of each block and
kv head first the codes [block_size, D], then the scales [block_size] as bfloat16, one for each token. A block is one
piece of memory, scales included: what copies, moves or shares blocks need not know of them. A scale for each token,
because a block is filled token by token: one scale for all of it would have to be raised when a larger value comes,
and what was written before, perhaps read by others already, would change.
"""

from __future__ import annotations

import torch

LARGEST_CODES = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}
NATIVE_CODECS = {torch.float32: 0, torch.int8: 1, torch.float8_e4m3fn: 2, torch.float8_e5m2: 3, torch.bfloat16: 4}
"""How native/packed_cache.h calls what a cache holds."""
SCALE_BYTES = 2
LEAST_AMPLITUDE = 1e-30
"""Of a head's largest value, so that a head of zeros has a scale that can be divided by."""


def is_quantised(cache: torch.Tensor) -> bool:
    return cache.dtype in LARGEST_CODES


def bytes_per_head(head_size: int, dtype: torch.dtype) -> int:
    """Of one token's keys, or values, in one kv head."""
    return head_size + SCALE_BYTES if dtype in LARGEST_CODES else head_size * dtype.itemsize


def cache_shape(blocks: int, kv_heads: int, block_size: int, head_size: int, dtype: torch.dtype) -> tuple[int, ...]:
    if dtype in LARGEST_CODES:
        return blocks, kv_heads, block_size * (head_size + SCALE_BYTES)
    return blocks, kv_heads, block_size, head_size


def block_size_of(cache: torch.Tensor, head_size: int) -> int:
    return cache.shape[2] // (head_size + SCALE_BYTES) if is_quantised(cache) else cache.shape[2]


def codes_and_scales(cache: torch.Tensor, head_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Views of a quantised cache, or of some of its blocks: [blocks, Hk, block_size, D] and [blocks, Hk, block_size]
    bfloat16."""
    block_size = block_size_of(cache, head_size)
    codes, scales = cache[..., : block_size * head_size], cache[..., block_size * head_size :]
    return codes.view(*cache.shape[:2], block_size, head_size), scales.view(torch.bfloat16)


def quantise(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """x: [..., D]. Returns codes [..., D] of dtype and scales [...] bfloat16, with x = codes * scales to the codes'
    rounding: to the nearest, halves to even. The largest value of a head gets the largest code. A head with a value
    that is not finite is not finite when it is read."""
    wide = x.float()
    scales = (wide.abs().amax(-1).clamp_min(LEAST_AMPLITUDE) / LARGEST_CODES[dtype]).to(torch.bfloat16)
    codes = wide / scales.float().unsqueeze(-1)
    return (codes.round() if dtype == torch.int8 else codes).to(dtype), scales


def read_blocks(cache: torch.Tensor, blocks: torch.Tensor, head_size: int) -> torch.Tensor:
    """Those blocks as [N, Hk, block_size, D], of a quantised cache in float32. blocks: [N] int64."""
    if not is_quantised(cache):
        return cache[blocks]
    codes, scales = codes_and_scales(cache[blocks], head_size)
    return codes.float() * scales.float().unsqueeze(-1)


def write_tokens(cache: torch.Tensor, slots: torch.Tensor, x: torch.Tensor) -> None:
    """x: [T, Hk, D] to the places slot = block * block_size + offset of slots [T], none of them negative."""
    size = x.shape[2]
    block_size = block_size_of(cache, size)
    block, offset = slots // block_size, slots % block_size
    if not is_quantised(cache):
        cache[block, :, offset] = x.to(cache.dtype)
        return
    codes, scales = codes_and_scales(cache, size)
    codes[block, :, offset], scales[block, :, offset] = quantise(x, cache.dtype)
