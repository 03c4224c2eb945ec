"""Batched LoRA on a GPU: shrink to float32 rank values, expand into y. Knows tiles and sites, not who made them.

Two launches for all sites of a projection. A work item is (tile, site, part of K or columns), and a program takes items
until none is left: the grid is made for the capacity, work follows the adapters present.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from .lora_tiles import DECODE_TILE, PREFILL_TILE, LoraTiles
from .triton_runtime import KernelVariant, dot_dtype, jit, tl

if TYPE_CHECKING:
    from .lora import LoraSite

T = TypeVar("T")

MAX_SITES = 3
RANKS = 16
"""Rank rows that a program holds at once; it goes on to the next until its adapter's rank is reached."""

_FEW = 4
"""Up to so many tokens a tile is multiplied without tensor cores, which would work on rows that are not there."""

_MAX_PROGRAMS = 4096
_ENOUGH_PROGRAMS = 132

_SMALL_K, _LARGE_K, _BLOCK_N = 512, 64, 256
"""Columns of x that a program multiplies at once (decode: all it has; prefill: a step of its loop), columns of y."""


@jit
def _pick(site: tl.tensor, first: tl.tensor, second: tl.tensor, third: tl.tensor, SITES: tl.constexpr) -> tl.tensor:
    """The argument of this site."""
    picked = first
    if SITES > 1:
        picked = tl.where(site == 1, second, picked)
    if SITES > 2:
        picked = tl.where(site == 2, third, picked)
    return picked


@jit
def _shrink_few(
    h: tl.tensor, x: tl.tensor, a: tl.tensor, first: tl.tensor, count: tl.tensor, rank: tl.tensor, k: tl.tensor,
    k_begin: tl.tensor, k_end: tl.tensor, x_stride: tl.tensor, h_stride: tl.tensor,
    RANKS: tl.constexpr, BLOCK_K: tl.constexpr,
) -> None:  # fmt: skip
    """h[t, :rank] = x[t, k_begin:k_end] . a[:rank, k_begin:k_end] of a few tokens, one after the other."""
    for r in range(0, rank, RANKS):
        rows = r + tl.arange(0, RANKS)
        live = rows < rank
        for t in range(first, first + count):
            total = tl.zeros((RANKS,), dtype=tl.float32)
            for start in range(k_begin, k_end, BLOCK_K):
                columns = start + tl.arange(0, BLOCK_K)
                inside = columns < k_end
                weights = tl.load(
                    a + rows.to(tl.int64)[:, None] * k + columns[None, :],
                    mask=live[:, None] & inside[None, :],
                    other=0.0,
                )
                values = tl.load(x + tl.cast(t, tl.int64) * x_stride + columns, mask=inside, other=0.0)
                total += tl.sum(weights.to(tl.float32) * values.to(tl.float32)[None, :], axis=1)
            tl.store(h + tl.cast(t, tl.int64) * h_stride + rows, total, mask=live)


@jit
def _shrink_rows(
    h: tl.tensor, x: tl.tensor, a: tl.tensor, first: tl.tensor, count: tl.tensor, r: tl.tensor, rank: tl.tensor,
    k: tl.tensor, k_begin: tl.tensor, k_end: tl.tensor, x_stride: tl.tensor, h_stride: tl.tensor,
    TILE: tl.constexpr, RANKS: tl.constexpr, PARTS: tl.constexpr, BLOCK_K: tl.constexpr, DOT: tl.constexpr,
) -> None:  # fmt: skip
    """Rank rows r to r + RANKS of a tile, on tensor cores; PARTS warps share BLOCK_K where a tile has few rows."""
    tokens = tl.arange(0, TILE)
    here = tokens < count
    rows = r + tl.arange(0, RANKS)
    live = rows < rank
    x_rows = x + (first + tokens).to(tl.int64) * x_stride
    a_rows = a + rows.to(tl.int64) * k
    WIDTH: tl.constexpr = BLOCK_K // PARTS
    if PARTS == 1:
        total = tl.zeros((TILE, RANKS), dtype=tl.float32)
        for start in range(k_begin, k_end, BLOCK_K):
            columns = start + tl.arange(0, BLOCK_K)
            inside = columns < k_end
            values = tl.load(x_rows[:, None] + columns[None, :], mask=here[:, None] & inside[None, :], other=0.0)
            weights = tl.load(a_rows[None, :] + columns[:, None], mask=live[None, :] & inside[:, None], other=0.0)
            total = tl.dot(values.to(DOT), weights.to(DOT), total, input_precision="ieee")
    else:
        parts = tl.zeros((PARTS, TILE, RANKS), dtype=tl.float32)
        for start in range(k_begin, k_end, BLOCK_K):
            columns = start + tl.arange(0, PARTS)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
            inside = columns < k_end
            values = tl.load(
                x_rows[None, :, None] + columns[:, None, :], mask=here[None, :, None] & inside[:, None, :], other=0.0
            )
            weights = tl.load(
                a_rows[None, None, :] + columns[:, :, None], mask=live[None, None, :] & inside[:, :, None], other=0.0
            )
            parts = tl.dot(values.to(DOT), weights.to(DOT), parts, input_precision="ieee")
        total = tl.sum(parts, axis=0)
    tl.store(
        h + (first + tokens).to(tl.int64)[:, None] * h_stride + rows[None, :],
        total,
        mask=here[:, None] & live[None, :],
    )


@jit
def _shrink_kernel(
    h: tl.tensor, x: tl.tensor, tiles: tl.tensor, offsets: tl.tensor,
    a0: tl.tensor, a1: tl.tensor, a2: tl.tensor, ranks0: tl.tensor, ranks1: tl.tensor, ranks2: tl.tensor,
    k: tl.tensor, x_stride: tl.tensor, max_rank: tl.tensor, h_split: tl.tensor, split_k: tl.tensor, splits: tl.tensor,
    SITES: tl.constexpr, TILE: tl.constexpr, BLOCK_K: tl.constexpr, DOT: tl.constexpr, FEW: tl.constexpr,
) -> None:  # fmt: skip
    """h: [splits, T, SITES, max_rank] float32, each part of K's share of x [T, K] . A [R, K] of a token's adapter."""
    items = tl.load(tiles) * splits * SITES
    h_stride = SITES * max_rank
    for item in range(tl.program_id(0), items, tl.num_programs(0)):
        site = item % SITES
        split = (item // SITES) % splits
        tile = tiles + 4 + item // (SITES * splits) * 4
        first, count, slot = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
        rank = tl.load(_pick(site, ranks0, ranks1, ranks2, SITES) + slot)
        a = _pick(site, a0, a1, a2, SITES) + tl.load(offsets + slot).to(tl.int64) * k
        k_begin = split * split_k
        k_end = tl.minimum(k, k_begin + split_k)
        out = h + split.to(tl.int64) * h_split + site * max_rank
        if count <= FEW:
            _shrink_few(out, x, a, first, count, rank, k, k_begin, k_end, x_stride, h_stride, 16, 512)
        elif TILE == 16:
            for r in range(0, rank, 16):
                _shrink_rows(
                    out, x, a, first, count, r, rank, k, k_begin, k_end, x_stride, h_stride, TILE, 16, 4, BLOCK_K, DOT
                )
        elif rank <= 16:
            if rank > 0:
                _shrink_rows(
                    out, x, a, first, count, 0, rank, k, k_begin, k_end, x_stride, h_stride, TILE, 16, 1, BLOCK_K, DOT
                )
        else:
            for r in range(0, rank, 64):
                _shrink_rows(
                    out, x, a, first, count, r, rank, k, k_begin, k_end, x_stride, h_stride, TILE, 64, 1, BLOCK_K, DOT
                )


@jit
def _summed(
    h: tl.tensor, tokens: tl.tensor, ranks: tl.tensor, here: tl.tensor, live: tl.tensor,
    h_stride: tl.tensor, h_split: tl.tensor, SPLITS: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """The rank values of a tile, [tokens, ranks]: the shares of all parts of K in their order."""
    places = h + tokens.to(tl.int64)[:, None] * h_stride + ranks[None, :]
    inside = here[:, None] & live[None, :]
    total = tl.load(places, mask=inside, other=0.0)
    for split in tl.static_range(1, SPLITS):
        total += tl.load(places + tl.cast(split, tl.int64) * h_split, mask=inside, other=0.0)
    return total


@jit
def _summed_token(
    h: tl.tensor, ranks: tl.tensor, live: tl.tensor, h_split: tl.tensor, SPLITS: tl.constexpr, PADDED: tl.constexpr
) -> tl.tensor:
    """The rank values of one token, [ranks]; all shares are on their way at once and summed in one fixed order."""
    splits = tl.arange(0, PADDED)
    inside = (splits < SPLITS)[:, None] & live[None, :]
    return tl.sum(tl.load(h + splits.to(tl.int64)[:, None] * h_split + ranks[None, :], mask=inside, other=0.0), axis=0)


@jit
def _expanded_token(
    h: tl.tensor, b: tl.tensor, rank: tl.tensor, columns: tl.tensor, inside: tl.tensor, width: tl.tensor,
    h_split: tl.tensor, BLOCK_N: tl.constexpr, RANKS: tl.constexpr, SPLITS: tl.constexpr, PADDED: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """h[:rank] @ b[:rank, columns] of one token: float32 [BLOCK_N]."""
    total = tl.zeros((BLOCK_N,), dtype=tl.float32)
    for r in range(0, rank, RANKS):
        rows = r + tl.arange(0, RANKS)
        live = rows < rank
        weights = tl.load(
            b + rows.to(tl.int64)[:, None] * width + columns[None, :], mask=live[:, None] & inside[None, :], other=0.0
        )
        values = _summed_token(h, rows, live, h_split, SPLITS, PADDED)
        total += tl.sum(weights.to(tl.float32) * values[:, None], axis=0)
    return total


@jit
def _expanded_rows(
    h: tl.tensor, b: tl.tensor, tokens: tl.tensor, here: tl.tensor, rank: tl.tensor, columns: tl.tensor,
    inside: tl.tensor, width: tl.tensor, h_stride: tl.tensor, h_split: tl.tensor,
    TILE: tl.constexpr, BLOCK_N: tl.constexpr, RANKS: tl.constexpr, SPLITS: tl.constexpr, DOT: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """h[tokens, :rank] @ b[:rank, columns] on tensor cores: float32 [TILE, BLOCK_N].

    The rank values go in as the sum of two numbers of the weights' type, so that they are not rounded to it.
    """
    total = tl.zeros((TILE, BLOCK_N), dtype=tl.float32)
    for r in range(0, rank, RANKS):
        rows = r + tl.arange(0, RANKS)
        live = rows < rank
        weights = tl.load(
            b + rows.to(tl.int64)[:, None] * width + columns[None, :], mask=live[:, None] & inside[None, :], other=0.0
        ).to(DOT)
        values = _summed(h, tokens, rows, here, live, h_stride, h_split, SPLITS)
        high = values.to(DOT)
        total = tl.dot(high, weights, total, input_precision="ieee")
        if tl.float32 != DOT:
            total = tl.dot((values - high.to(tl.float32)).to(DOT), weights, total, input_precision="ieee")
    return total


@jit
def _dora(total: tl.tensor, magnitude: tl.tensor, bias: tl.tensor) -> tl.tensor:
    return bias + magnitude * (total - bias)


@jit
def _expand_kernel(
    y: tl.tensor, h: tl.tensor, tiles: tl.tensor, offsets: tl.tensor, bias: tl.tensor,
    b0: tl.tensor, b1: tl.tensor, b2: tl.tensor, ranks0: tl.tensor, ranks1: tl.tensor, ranks2: tl.tensor,
    magnitude0: tl.tensor, magnitude1: tl.tensor, magnitude2: tl.tensor,
    first0: tl.tensor, first1: tl.tensor, first2: tl.tensor, width0: tl.tensor, width1: tl.tensor, width2: tl.tensor,
    y_stride: tl.tensor, max_rank: tl.tensor, h_split: tl.tensor,
    SITES: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr, PADDED: tl.constexpr, BLOCK_N: tl.constexpr,
    DORA: tl.constexpr, HAS_BIAS: tl.constexpr, DOT: tl.constexpr, FEW: tl.constexpr,
) -> None:  # fmt: skip
    """y: [T, N] in place, h from `_shrink_kernel`. DORA: bit i says that site i has magnitudes."""
    before1 = tl.cdiv(width0, BLOCK_N)
    before2 = before1 + (tl.cdiv(width1, BLOCK_N) if SITES > 1 else 0)
    blocks = before2 + (tl.cdiv(width2, BLOCK_N) if SITES > 2 else 0)
    items = tl.load(tiles) * blocks
    h_stride = SITES * max_rank
    for item in range(tl.program_id(0), items, tl.num_programs(0)):
        block = item % blocks
        tile = tiles + 4 + item // blocks * 4
        first, count, slot = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
        site = (block >= before1).to(tl.int32) + (block >= before2).to(tl.int32)
        rank = tl.load(_pick(site, ranks0, ranks1, ranks2, SITES) + slot)
        if rank > 0:
            width = _pick(site, width0, width1, width2, SITES)
            b = _pick(site, b0, b1, b2, SITES) + tl.load(offsets + slot).to(tl.int64) * width
            columns = (block - _pick(site, 0, before1, before2, SITES)) * BLOCK_N + tl.arange(0, BLOCK_N)
            inside = columns < width
            place = _pick(site, first0, first1, first2, SITES) + columns
            values = h + site * max_rank
            magnitude = tl.full((BLOCK_N,), 1.0, dtype=tl.float32)
            base = tl.zeros((BLOCK_N,), dtype=tl.float32)
            if DORA != 0:
                scaled = inside & (((DORA >> site) & 1) != 0)
                scales = _pick(site, magnitude0, magnitude1, magnitude2, SITES) + slot.to(tl.int64) * width
                magnitude = tl.load(scales + columns, mask=scaled, other=1.0)
                if HAS_BIAS:
                    base = tl.load(bias + place, mask=inside, other=0.0).to(tl.float32)
            if count <= FEW:
                for t in range(first, first + count):
                    spot = y + tl.cast(t, tl.int64) * y_stride + place
                    total = tl.load(spot, mask=inside, other=0.0).to(tl.float32)
                    total += _expanded_token(
                        values + tl.cast(t, tl.int64) * h_stride, b, rank, columns, inside, width, h_split,
                        BLOCK_N, 16, SPLITS, PADDED,
                    )  # fmt: skip
                    if DORA != 0:
                        total = _dora(total, magnitude, base)
                    tl.store(spot, total.to(y.dtype.element_ty), mask=inside)
            else:
                tokens = first + tl.arange(0, TILE)
                here = tl.arange(0, TILE) < count
                spots = y + tokens.to(tl.int64)[:, None] * y_stride + place[None, :]
                both = here[:, None] & inside[None, :]
                sums = _expanded_rows(
                    values, b, tokens, here, rank, columns, inside, width, h_stride, h_split,
                    TILE, BLOCK_N, 16, SPLITS, DOT,
                )  # fmt: skip
                sums += tl.load(spots, mask=both, other=0.0).to(tl.float32)
                if DORA != 0:
                    sums = _dora(sums, magnitude[None, :], base[None, :])
                tl.store(spots, sums.to(y.dtype.element_ty), mask=both)


@jit
def _gather_kernel(
    h: tl.tensor, token_ids: tl.tensor, tiles: tl.tensor, offsets: tl.tensor, a: tl.tensor, ranks: tl.tensor,
    a_stride: tl.tensor, max_rank: tl.tensor, TILE: tl.constexpr, RANKS: tl.constexpr,
) -> None:  # fmt: skip
    """h: [T, max_rank] float32: for an embedding's A [V, R], the row of the token."""
    for item in range(tl.program_id(0), tl.load(tiles), tl.num_programs(0)):
        tile = tiles + 4 + item * 4
        first, count, slot = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
        rank, offset = tl.load(ranks + slot), tl.load(offsets + slot)
        tokens = first + tl.arange(0, TILE)
        here = tl.arange(0, TILE) < count
        rows = tl.load(token_ids + tokens, mask=here, other=0) * a_stride + offset
        for r in range(0, rank, RANKS):
            columns = r + tl.arange(0, RANKS)
            inside = here[:, None] & (columns < rank)[None, :]
            values = tl.load(a + rows[:, None] + columns[None, :], mask=inside, other=0.0).to(tl.float32)
            tl.store(h + tokens.to(tl.int64)[:, None] * max_rank + columns[None, :], values, mask=inside)


def shrink_triton(x: torch.Tensor, sites: Sequence[LoraSite], tiles: LoraTiles) -> torch.Tensor:
    """x: [T, K], rows contiguous; at most MAX_SITES sites. Returns [splits, T, sites, max_rank] float32.

    Only the ranks of tokens that have an adapter are written; `expand_triton_` sums over the splits.
    """
    tokens, k = x.shape
    split_k, splits = _splits(k, len(sites), tiles)
    max_rank = max(site.max_rank for site in sites)
    h = torch.empty((splits, tokens, len(sites), max_rank), dtype=torch.float32, device=x.device)
    items = tiles.max_adapter_tiles * splits * len(sites)
    large = tiles.tile == PREFILL_TILE
    _shrink_kernel[(min(items, _MAX_PROGRAMS),)](
        h, x, tiles.table, sites[0].offsets, *_three([s.a for s in sites]), *_three([s.ranks for s in sites]),
        k, x.stride(0), max_rank, h.stride(0), split_k, splits,
        SITES=len(sites), TILE=tiles.tile, BLOCK_K=_LARGE_K if large else _SMALL_K, DOT=dot_dtype(x.dtype), FEW=_FEW,
        num_warps=4, num_stages=3 if large else 2,
    )  # fmt: skip
    return h


def expand_triton_(
    y: torch.Tensor,
    h: torch.Tensor,
    sites: Sequence[LoraSite],
    columns: Sequence[tuple[int, int]],
    tiles: LoraTiles,
    bias: torch.Tensor | None,
) -> None:
    """y: [T, N] in place, rows contiguous; h from `shrink_triton` for the same sites; site i acts on columns[i]."""
    widths = [end - first for first, end in columns]
    dora = sum(1 << i for i, site in enumerate(sites) if site.magnitude is not None)
    blocks = sum(-(-width // _BLOCK_N) for width in widths)
    splits = h.shape[0]
    magnitudes = [sites[0].b if site.magnitude is None else site.magnitude for site in sites]
    _expand_kernel[(min(tiles.max_adapter_tiles * blocks, _MAX_PROGRAMS),)](
        y, h, tiles.table, sites[0].offsets, bias if dora else None,
        *_three([s.b for s in sites]), *_three([s.ranks for s in sites]), *_three(magnitudes),
        *_three([first for first, _ in columns]), *_three(widths), y.stride(0), h.shape[3], h.stride(0),
        SITES=len(sites), TILE=tiles.tile, SPLITS=splits, PADDED=_power_of_two(splits), BLOCK_N=_BLOCK_N,
        DORA=dora, HAS_BIAS=bias is not None, DOT=dot_dtype(sites[0].b.dtype), FEW=_FEW, num_warps=4,
    )  # fmt: skip


def gather_triton(token_ids: torch.Tensor, site: LoraSite, tiles: LoraTiles) -> torch.Tensor:
    """token_ids: [T] int64. Returns what `shrink_triton` returns, for an embedding: [1, T, 1, max_rank] float32."""
    h = torch.empty((1, len(token_ids), 1, site.max_rank), dtype=torch.float32, device=token_ids.device)
    _gather_kernel[(min(tiles.max_adapter_tiles, _MAX_PROGRAMS),)](
        h, token_ids, tiles.table, site.offsets, site.a, site.ranks, site.a.stride(0), site.max_rank,
        TILE=tiles.tile, RANKS=RANKS, num_warps=2,
    )  # fmt: skip
    return h


def _splits(k: int, num_sites: int, tiles: LoraTiles) -> tuple[int, int]:
    """(columns of K in a part, parts). Few distinct numbers: each is a compiled form of the expand kernel."""
    if tiles.tile != PREFILL_TILE:
        return _SMALL_K, -(-k // _SMALL_K)
    wanted = 1 if tiles.max_adapter_tiles * num_sites >= _ENOUGH_PROGRAMS else 4
    part = -(-k // wanted // _LARGE_K) * _LARGE_K
    return part, -(-k // part)


def _three(items: Sequence[T]) -> list[T]:
    """Kernels take three of everything; what is not there is never looked at."""
    return [*items, *[items[0]] * (MAX_SITES - len(items))]


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def kernel_variants() -> Iterator[KernelVariant]:
    """For the ahead-of-time table: the sites of Llama-3.1-8B, decode and prefill."""
    for dtype in ("bf16", "fp16", "fp32"):
        for tile in (DECODE_TILE, PREFILL_TILE):
            for sites, k in ((3, 4096), (2, 4096), (1, 4096), (1, 14336)):
                yield from _linear_variants(dtype, tile, sites, k)
        yield _gather_variant(dtype)


def _linear_variants(dtype: str, tile: int, sites: int, k: int) -> Iterator[KernelVariant]:
    large = tile == PREFILL_TILE
    splits = 4 if large else -(-k // _SMALL_K)
    dot = getattr(tl, {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[dtype])
    pointer, ints, floats = f"*{dtype}", "*i32", "*fp32"
    shrink = dict.fromkeys(["x", "a0", "a1", "a2"], pointer) | dict.fromkeys(["tiles", "offsets"], ints)
    shrink |= dict.fromkeys(["ranks0", "ranks1", "ranks2"], ints) | {"h": floats}
    yield KernelVariant(
        f"lora_shrink {dtype} tile={tile} sites={sites} k={k}",
        _shrink_kernel,
        _signature(_shrink_kernel, shrink),
        {"SITES": sites, "TILE": tile, "BLOCK_K": _LARGE_K if large else _SMALL_K, "DOT": dot, "FEW": _FEW},
        unaligned=frozenset({"splits"}),
        options={"num_warps": 4, "num_stages": 3 if large else 2},
    )
    expand = dict.fromkeys(["y", "b0", "b1", "b2", "bias"], pointer) | dict.fromkeys(["tiles", "offsets"], ints)
    expand |= dict.fromkeys(["ranks0", "ranks1", "ranks2"], ints) | {"h": floats}
    expand |= dict.fromkeys(["magnitude0", "magnitude1", "magnitude2"], floats)
    for dora in (0, (1 << sites) - 1):
        constants = {"SITES": sites, "TILE": tile, "SPLITS": splits, "PADDED": _power_of_two(splits), "DORA": dora}
        constants |= {"BLOCK_N": _BLOCK_N, "HAS_BIAS": bool(dora), "DOT": dot, "FEW": _FEW}
        yield KernelVariant(
            f"lora_expand {dtype} tile={tile} sites={sites} k={k}{' dora' if dora else ''}",
            _expand_kernel,
            _signature(_expand_kernel, expand),
            constants,
            options={"num_warps": 4},
        )


def _gather_variant(dtype: str) -> KernelVariant:
    pointers = {"h": "*fp32", "token_ids": "*i64", "a": f"*{dtype}"}
    pointers |= dict.fromkeys(["tiles", "offsets", "ranks"], "*i32")
    constants = {"TILE": PREFILL_TILE, "RANKS": RANKS}
    return KernelVariant(
        f"lora_gather {dtype}",
        _gather_kernel,
        _signature(_gather_kernel, pointers),
        constants,
        options={"num_warps": 2},
    )


def _signature(kernel: Any, pointers: Mapping[str, str]) -> dict[str, str]:
    """Arguments in upper case are constants, those that are no pointers are numbers."""
    return {name: "constexpr" if name.isupper() else pointers.get(name, "i32") for name in kernel.arg_names}
