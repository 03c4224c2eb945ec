"""RoPE and KV write of a product q, k, v to which the adapters' delta is still to be added: it is, on the way.

Used inside CUDA graphs (see lora/fused_linear.py). An item of work is a tile of tokens of one adapter and a few heads,
as in the expand that it replaces: no more is read of B, and the product is neither read nor written once more.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from multiflora_kernels.lora.fused_linear import ShrunkDelta
from multiflora_kernels.lora.launch import DTYPES, MAX_PROGRAMS, kernel_variant
from multiflora_kernels.lora.tiles import DECODE_TILE
from multiflora_kernels.lora.triton import pick, rows_delta, token_delta
from multiflora_kernels.rope.qk_norm import QKNorm
from multiflora_kernels.rope.step import RopeStep
from multiflora_kernels.runtime.triton import (
    KernelVariant,
    dot_dtype,
    jit,
    jit_with_varying,
    power_of_two,
    rounded,
    tl,
)

_COLUMNS = 256
"""Of an item, at least a head: 16 ranks of it are 32 values a thread for four warps."""

_SIZES = frozenset({16, 32, 64, 128, 256})
"""Of heads that are rotated as a whole, so that splitting a head in halves gives the pairs."""


def folds_into_rope(delta: ShrunkDelta, head_size: int, rotary: int) -> bool:
    """Whether `rope_lora_triton` takes it: q, k and v have a site each, heads are rotated as a whole."""
    return len(delta.sites) == 3 and head_size == rotary and head_size in _SIZES


@jit
def _rotate_and_store(
    out: tl.tensor, values: tl.tensor, written: tl.tensor, cos: tl.tensor, sin: tl.tensor, rotates: tl.tensor,
    norm: tl.tensor, eps: tl.tensor, ROWS: tl.constexpr, SIZE: tl.constexpr, NORMED: tl.constexpr,
    DTYPE: tl.constexpr,
) -> None:  # fmt: skip
    """values: [ROWS, SIZE] float32, heads; out, cos, sin: pointers [ROWS, 1]; written: [ROWS, 1].

    rotates: whether the heads are normed (if NORMED) and rotated; those of v go through as they are.
    """
    HALF: tl.constexpr = SIZE // 2
    halves = tl.permute(tl.reshape(rounded(values, DTYPE), (ROWS, 2, HALF)), (0, 2, 1))
    first, second = tl.split(halves)
    pair = tl.broadcast_to(tl.arange(0, HALF)[None, :], (ROWS, HALF))
    if NORMED:
        scale = tl.rsqrt(tl.sum(first * first + second * second, axis=1) / SIZE + eps)[:, None]
        first_norm = tl.load(norm + pair).to(tl.float32)
        second_norm = tl.load(norm + HALF + pair).to(tl.float32)
        inner: tl.constexpr = norm.dtype.element_ty
        first = tl.where(rotates, rounded(rounded(first * scale, inner) * first_norm, DTYPE), first)
        second = tl.where(rotates, rounded(rounded(second * scale, inner) * second_norm, DTYPE), second)
    c = tl.load(cos + pair, mask=rotates & written, other=0.0)
    s = tl.load(sin + pair, mask=rotates & written, other=0.0)
    rotated = tl.where(rotates, first * c - second * s, first)
    tl.store(out + pair, rotated.to(DTYPE), mask=written)
    rotated = tl.where(rotates, second * c + first * s, second)
    tl.store(out + HALF + pair, rotated.to(DTYPE), mask=written)


@jit_with_varying("items")
def _rope_lora_kernel(
    q: tl.tensor, k: tl.tensor, v: tl.tensor, h: tl.tensor, tiles: tl.tensor,
    offsets0: tl.tensor, offsets1: tl.tensor, offsets2: tl.tensor, b0: tl.tensor, b1: tl.tensor, b2: tl.tensor,
    ranks0: tl.tensor, ranks1: tl.tensor, ranks2: tl.tensor, cos: tl.tensor, sin: tl.tensor, positions: tl.tensor,
    kv_slots: tl.tensor, k_cache: tl.tensor, v_cache: tl.tensor, q_norm: tl.tensor, k_norm: tl.tensor, eps: tl.tensor,
    x_token: tl.tensor, x_head: tl.tensor, max_rank: tl.tensor, h_split: tl.tensor, table_row: tl.tensor,
    cache_block: tl.tensor, cache_head: tl.tensor, cache_row: tl.tensor, block_size: tl.tensor, items: tl.tensor,
    Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, SIZE: tl.constexpr, HEADS: tl.constexpr, TILE: tl.constexpr,
    SPLITS: tl.constexpr, PADDED: tl.constexpr, NORMED: tl.constexpr, DOT: tl.constexpr,
) -> None:  # fmt: skip
    """q is rotated in place, k on its way to its cache, v copied to its own; a row with slot -1 writes q alone.

    An item is a tile and HEADS heads, first of q, then of k, then of v.
    """
    dtype: tl.constexpr = q.dtype.element_ty
    before_k: tl.constexpr = (Q_HEADS + HEADS - 1) // HEADS
    before_v: tl.constexpr = before_k + (K_HEADS + HEADS - 1) // HEADS
    parts: tl.constexpr = 2 * before_v - before_k
    items = tl.minimum(items, tl.load(tiles + 4) * parts)
    for item in range(tl.program_id(0), items, tl.num_programs(0)):
        part = item % parts
        tile = tiles + item // parts * 5
        first, count, slot = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
        site = (part >= before_k).to(tl.int32) + (part >= before_v).to(tl.int32)
        head = (part - pick(site, 0, before_k, before_v, 3)) * HEADS
        heads = tl.where(site == 0, Q_HEADS, K_HEADS)
        width = heads * SIZE
        used = (slot >= 0) & (count > 0)
        rank = tl.load(pick(site, ranks0, ranks1, ranks2, 3) + slot, mask=used, other=0)
        offset = tl.load(pick(site, offsets0, offsets1, offsets2, 3) + slot, mask=used, other=0)
        b = pick(site, b0, b1, b2, 3) + offset.to(tl.int64) * width
        x = pick(site, q, k, v, 3)
        target_head = tl.where(site == 0, x_head, cache_head)
        norm = tl.where(site == 0, q_norm, k_norm)
        rotates = site < 2
        h_site = h + site * max_rank
        h_token = 3 * max_rank
        if count == 1:
            token = first.to(tl.int64)
            own = head + tl.arange(0, HEADS)[:, None]
            columns = head * SIZE + tl.arange(0, HEADS * SIZE)
            delta = token_delta(
                h_site + token * h_token, b, rank, columns, columns < width, width, h_split, 16, HEADS * SIZE, SPLITS,
                PADDED, 2,
            )  # fmt: skip
            x_row = x + token * x_token
            places = x_row + own * x_head + tl.arange(0, SIZE)[None, :]
            values = tl.load(places, mask=own < heads, other=0.0).to(tl.float32)
            values += tl.reshape(delta, (HEADS, SIZE))
            table = tl.load(positions + token) * table_row + tl.zeros((HEADS, 1), tl.int64)
            cached = tl.load(kv_slots + token)
            place = cached // block_size * cache_block + cached % block_size * cache_row
            target = tl.where(site == 0, x_row, tl.where(site == 1, k_cache, v_cache) + place)
            written = (own < heads) & ((site == 0) | (cached >= 0))
            _rotate_and_store(
                target + own * target_head, values, written, cos + table, sin + table, rotates, norm, eps, HEADS, SIZE,
                NORMED, dtype,
            )  # fmt: skip
        elif count > 1:
            tokens = tl.arange(0, TILE)
            here = tokens < count
            row = (first + tokens).to(tl.int64)
            table = tl.load(positions + row, mask=here, other=0)[:, None] * table_row
            cached = tl.load(kv_slots + row, mask=here, other=-1)[:, None]
            place = cached // block_size * cache_block + cached % block_size * cache_row
            x_rows = x + row[:, None] * x_token
            target = tl.where(site == 0, x_rows, tl.where(site == 1, k_cache, v_cache) + place)
            written = here[:, None] & ((site == 0) | (cached >= 0))
            h_rows = h_site + row[:, None] * h_token
            for own in range(head, tl.minimum(head + HEADS, heads)):
                columns = own * SIZE + tl.arange(0, SIZE)
                values = rows_delta(
                    h_rows, b, here, rank, columns, columns < width, width, h_split, TILE, 16, SIZE, SPLITS, DOT
                )
                places = x_rows + own * x_head + tl.arange(0, SIZE)[None, :]
                values += tl.load(places, mask=here[:, None], other=0.0).to(tl.float32)
                _rotate_and_store(
                    target + own * target_head, values, written, cos + table, sin + table, rotates, norm, eps, TILE,
                    SIZE, NORMED, dtype,
                )  # fmt: skip


def _form(q_heads: int, k_heads: int, size: int, normed: bool) -> dict[str, int | bool]:
    """Constants and launch options."""
    heads = min(max(1, _COLUMNS // size), power_of_two(q_heads))
    constants = {"Q_HEADS": q_heads, "K_HEADS": k_heads, "SIZE": size, "HEADS": heads}
    return constants | {"TILE": DECODE_TILE, "NORMED": normed, "num_warps": 4, "num_stages": 2}


def rope_lora_triton(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    rope: RopeStep,
    norms: QKNorm | None,
    delta: ShrunkDelta,
) -> torch.Tensor:
    """As `rope_and_write_kv` of q, k, v, views of one product, with `delta` added; see `folds_into_rope`."""
    cos, sin, (q_heads, size) = rope.cos, rope.sin, q.shape[1:]
    h, tiles = delta.values, delta.tiles
    offsets, b, ranks = ([getattr(site, name) for site in delta.sites] for name in ("offsets", "b", "ranks"))
    assert q.stride() == k.stride() == v.stride(), "views of one product"
    assert q.stride(2) == cos.stride(1) == sin.stride(1) == k_cache.stride(3) == 1, "rows are contiguous"
    assert cos.stride() == sin.stride()
    assert k_cache.stride() == v_cache.stride()
    assert q.dtype == k_cache.dtype == v_cache.dtype, "one dtype for the product and the caches"
    q_norm, k_norm, eps = (cos, cos, 0.0) if norms is None else norms
    form = _form(q_heads, k.shape[1], size, norms is not None)
    parts = -(-q_heads // form["HEADS"]) + 2 * -(-k.shape[1] // form["HEADS"])
    items = tiles.max_tiles * parts
    _rope_lora_kernel[(min(items, MAX_PROGRAMS),)](
        q, k, v, h, tiles.table, *offsets, *b, *ranks, cos, sin, rope.positions, rope.kv_slots, k_cache, v_cache,
        q_norm, k_norm, eps, q.stride(0), q.stride(1), h.shape[3], h.stride(0), cos.stride(0), *k_cache.stride()[:3],
        k_cache.shape[2], items, SPLITS=h.shape[0], PADDED=power_of_two(h.shape[0]), DOT=dot_dtype(q.dtype), **form,
    )  # fmt: skip
    return q


def kernel_variants() -> Iterator[KernelVariant]:
    """For the ahead-of-time table: Llama's heads, Qwen3's normed ones, small and large ones."""
    forms = {
        "llama": (32, 8, 128, False),
        "qwen3": (32, 8, 128, True),
        "heads of 64": (14, 2, 64, False),
        "heads of 256": (16, 1, 256, False),
    }
    for name, shape in forms.items():
        for dtype in ("bf16", "fp32"):
            pointers = dict.fromkeys(("q", "k", "v", "k_cache", "v_cache", "q_norm", "k_norm"), f"*{dtype}")
            pointers |= dict.fromkeys(("b0", "b1", "b2"), f"*{dtype}") | dict.fromkeys(("h", "cos", "sin"), "*fp32")
            pointers |= {"positions": "*i64", "kv_slots": "*i64", "eps": "fp32"}
            constants = {"SPLITS": 8, "PADDED": 8, "DOT": DTYPES[dtype]} | _form(*shape)
            yield kernel_variant(f"rope with lora {name} {dtype}", _rope_lora_kernel, pointers, constants)
