"""Launches of the LoRA kernels: which block shapes and how many programs, for a table of tiles. Knows no adapters.

Programs at Llama-3.1-8B's shapes, decode, rank 16: an item of the shrink reads 512 (of long x 1,024) columns of A, 16
KB to 32 KB; q, k, v, o, gate, up and down of N adapters make 24, 8, 16 and 14 N items a launch. An item of the expand
reads 256 to 1,024 columns of B, 8 KB to 32 KB: 24, 16, 112 and 16 N at small N. With the 64 to 128 KB of copies in
flight on each of 132 processors, 32 adapters and more keep the memory busy; at N = 1 a launch is as long as its own
latency.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch

from multiflora_kernels.lora.site import LoraSite
from multiflora_kernels.lora.tiles import DECODE_TILE, PREFILL_TILE, LoraTiles
from multiflora_kernels.lora.triton import _expand_kernel, _gather_kernel, _shrink_kernel
from multiflora_kernels.runtime.triton import (
    KernelVariant,
    dot_dtype,
    power_of_two,
    tl,
)

T = TypeVar("T")

MAX_SITES = 3
RANKS = 16
MAX_PROGRAMS = 4096
_ENOUGH_PROGRAMS = 132
_PREFILL_PARTS = 4


def shrunk_empty(x: torch.Tensor, sites: Sequence[LoraSite], tiles: LoraTiles) -> torch.Tensor:
    """Memory for the rank values of x: [splits, T, sites, max_rank] float32."""
    splits = -(-x.shape[1] // split_k(x.shape[1], tiles.tile))
    max_rank = max(site.max_rank for site in sites)
    return torch.empty((splits, x.shape[0], len(sites), max_rank), dtype=torch.float32, device=x.device)


def shrink_triton(x: torch.Tensor, sites: Sequence[LoraSite], tiles: LoraTiles, h: torch.Tensor) -> None:
    """x: [T, K], rows contiguous; at most MAX_SITES sites; h from `shrunk_empty`.

    Only the ranks of tokens that have an adapter are written; their consumer sums over the splits, in order.
    """
    k, splits, max_rank = x.shape[1], h.shape[0], h.shape[3]
    part = split_k(k, tiles.tile)
    # Capped, not one program an item: each takes items until none is left, which evens out ranks that differ.
    items = tiles.max_adapter_tiles * splits * len(sites)
    _shrink_kernel[(min(items, MAX_PROGRAMS),)](
        h, x, tiles.table, *_three([s.offsets for s in sites]), *_three([s.a for s in sites]),
        *_three([s.ranks for s in sites]),
        k, x.stride(0), max_rank, h.stride(0), part, splits, items,
        SITES=len(sites), DOT=dot_dtype(x.dtype), **_shrink_form(tiles.tile, x.dtype),
    )  # fmt: skip


def expand_triton_(
    y: torch.Tensor,
    h: torch.Tensor,
    sites: Sequence[LoraSite],
    columns: Sequence[tuple[int, int]],
    tiles: LoraTiles,
    bias: torch.Tensor | None,
) -> None:
    """y: [T, N] in place, rows contiguous; h of `shrink_triton` for the same sites; site i acts on columns[i]."""
    _expand(y, h, sites, columns, tiles, bias, add=True)


def expand_triton(delta: torch.Tensor, h: torch.Tensor, site: LoraSite, tiles: LoraTiles) -> None:
    """delta: float32 [T, N], written in the rows of adapters that have a rank here; no DoRA. h of `shrink_triton`."""
    assert site.magnitude is None, "a magnitude scales what the delta is added to"
    _expand(delta, h, [site], [(0, delta.shape[1])], tiles, None, add=False)


def _expand(
    y: torch.Tensor,
    h: torch.Tensor,
    sites: Sequence[LoraSite],
    columns: Sequence[tuple[int, int]],
    tiles: LoraTiles,
    bias: torch.Tensor | None,
    *,
    add: bool,
) -> None:
    widths = [end - first for first, end in columns]
    # A bit for each site: which of them have magnitudes is compiled in, so that plain LoRA pays nothing for DoRA.
    dora = sum(1 << i for i, site in enumerate(sites) if site.magnitude is not None)
    magnitudes = [sites[0].b if site.magnitude is None else site.magnitude for site in sites]
    run = _columns_of_an_item(sum(widths), tiles)
    items = tiles.max_adapter_tiles * sum(-(-width // run) for width in widths)
    _expand_kernel[(min(items, MAX_PROGRAMS),)](
        y, h, tiles.table, *_three([s.offsets for s in sites]), bias if dora else None,
        *_three([s.b for s in sites]), *_three([s.ranks for s in sites]), *_three(magnitudes),
        *_three([first for first, _ in columns]), *_three(widths), y.stride(0), h.shape[3], h.stride(0), items, run,
        SITES=len(sites), SPLITS=h.shape[0], PADDED=power_of_two(h.shape[0]), DORA=dora,
        HAS_BIAS=dora != 0 and bias is not None, ADD=add, DOT=dot_dtype(sites[0].b.dtype),
        **_expand_form(tiles.tile, sites[0].b.dtype, is_plain=add and not dora),
    )  # fmt: skip


def gather_triton(token_ids: torch.Tensor, site: LoraSite, tiles: LoraTiles) -> torch.Tensor:
    """token_ids: [T] int64. Returns an embedding's rank values, [1, T, 1, max_rank] float32."""
    h = torch.empty((1, len(token_ids), 1, site.max_rank), dtype=torch.float32, device=token_ids.device)
    items = tiles.max_adapter_tiles
    _gather_kernel[(min(items, MAX_PROGRAMS),)](
        h, token_ids, tiles.table, site.offsets, site.a, site.ranks, site.a.stride(0), site.max_rank, items,
        TILE=tiles.tile, RANKS=RANKS, num_warps=2,
    )  # fmt: skip
    return h


def split_k(k: int, tile: int) -> int:
    """Columns of K that one item multiplies. It depends on K alone: the number of parts is a compiled form of what sums
    them, and none may be new when the first large batch comes."""
    # Decode reads little per token, so K is cut finely to occupy all processors; prefill has tiles enough.
    if tile != PREFILL_TILE:
        return 512 if k <= 8192 else 1024
    return max(256, -(-k // _PREFILL_PARTS // 64) * 64)


def _columns_of_an_item(width: int, tiles: LoraTiles) -> int:
    """The widest that still leaves enough programs: each reads its token's rank values anew."""
    for run in (1024, 512):
        if tiles.max_adapter_tiles * width >= run * 8 * _ENOUGH_PROGRAMS:
            return run
    return 256


def _shrink_form(tile: int, dtype: torch.dtype) -> dict[str, int]:
    """Block shapes and launch options, by what the compiler's reports say of registers and shared memory."""
    if dtype == torch.float32:
        blocks = {"BLOCK_K": 64 if tile == DECODE_TILE else 32, "TOKEN_K": 256, "STAGES": 2}
        return blocks | {"TILE": tile, "num_warps": 4, "num_stages": 2}
    if tile == PREFILL_TILE:
        return {"TILE": tile, "BLOCK_K": 64, "TOKEN_K": 256, "STAGES": 3, "num_warps": 4, "num_stages": 3}
    return {"TILE": tile, "BLOCK_K": 256, "TOKEN_K": 256, "STAGES": 4, "num_warps": 4, "num_stages": 3, "maxnreg": 112}


def _expand_form(tile: int, dtype: torch.dtype, *, is_plain: bool) -> dict[str, int]:
    """is_plain: y has the weights' dtype and no magnitudes, which fits into fewer registers."""
    if dtype == torch.float32:
        registers = 128 if tile == DECODE_TILE else 240
        return {"TILE": tile, "TOKEN_N": 256, "ROWS_N": 64, "STAGES": 1, "num_warps": 4, "maxnreg": registers}
    if tile == PREFILL_TILE:
        return {"TILE": tile, "TOKEN_N": 256, "ROWS_N": 64, "STAGES": 2, "num_warps": 4}
    form = {"TILE": tile, "TOKEN_N": 256, "ROWS_N": 128, "STAGES": 3, "num_warps": 4}
    return form | {"maxnreg": 112} if is_plain else form


def _three(items: Sequence[T]) -> list[T]:
    """Kernels take three of everything; what is not there is never looked at."""
    return [*items, *[items[0]] * (MAX_SITES - len(items))]


TORCH_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
DTYPES = {name: getattr(tl, str(dtype).removeprefix("torch."), None) for name, dtype in TORCH_DTYPES.items()}
"""What `dot_dtype` gives a compiled kernel, by the name in a signature; None without Triton."""


def kernel_variants() -> Iterator[KernelVariant]:
    """For the ahead-of-time table: the sites of Llama-3.1-8B; float16 compiles to what bfloat16 does."""
    for dtype in ("bf16", "fp32"):
        for tile in (DECODE_TILE, PREFILL_TILE):
            for sites, k in ((3, 4096), (1, 14336)):
                yield from _linear_variants(dtype, tile, sites, k)
        yield _gather_variant(dtype)
    yield from _linear_variants("fp16", DECODE_TILE, 2, 4096)


def _linear_variants(dtype: str, tile: int, sites: int, k: int) -> Iterator[KernelVariant]:
    splits = -(-k // split_k(k, tile))
    dot = DTYPES[dtype]
    yield kernel_variant(
        f"lora_shrink {dtype} tile={tile} sites={sites} k={k}",
        _shrink_kernel,
        {"h": "*fp32", **dict.fromkeys(["x", "a0", "a1", "a2"], f"*{dtype}")},
        {"SITES": sites, "DOT": dot, **_shrink_form(tile, TORCH_DTYPES[dtype])},
    )
    for dora in (0, (1 << sites) - 1):
        constants = {"SITES": sites, "SPLITS": splits, "PADDED": power_of_two(splits), "DORA": dora}
        pointers = dict.fromkeys(["h", "magnitude0", "magnitude1", "magnitude2"], "*fp32")
        yield kernel_variant(
            f"lora_expand {dtype} tile={tile} sites={sites} k={k}{' dora' if dora else ''}",
            _expand_kernel,
            pointers | dict.fromkeys(["y", "b0", "b1", "b2", "bias"], f"*{dtype}"),
            constants
            | {"HAS_BIAS": bool(dora), "ADD": True, "DOT": dot}
            | _expand_form(tile, TORCH_DTYPES[dtype], is_plain=not dora),
        )
    if sites == 1 and tile == DECODE_TILE:
        constants = {"SITES": 1, "SPLITS": splits, "PADDED": power_of_two(splits), "DORA": 0, "HAS_BIAS": False}
        yield kernel_variant(
            f"lora_expand delta {dtype} k={k}",
            _expand_kernel,
            {**dict.fromkeys(["y", "h", "magnitude0", "magnitude1", "magnitude2"], "*fp32")}
            | dict.fromkeys(["b0", "b1", "b2", "bias"], f"*{dtype}"),
            constants | {"ADD": False, "DOT": dot} | _expand_form(tile, TORCH_DTYPES[dtype], is_plain=False),
        )


def _gather_variant(dtype: str) -> KernelVariant:
    constants = {"TILE": PREFILL_TILE, "RANKS": RANKS, "num_warps": 2}
    pointers = {"h": "*fp32", "token_ids": "*i64", "a": f"*{dtype}"}
    return kernel_variant(f"lora_gather {dtype}", _gather_kernel, pointers, constants)


_TABLES = dict.fromkeys(
    ["tiles", "offsets", "ranks", *(f"{name}{i}" for name in ("offsets", "ranks") for i in range(3))], "*i32"
)
_UNALIGNED = frozenset({"splits", "items"})


def kernel_variant(name: str, kernel: Any, pointers: Mapping[str, str], values: Mapping[str, Any]) -> KernelVariant:
    """values: constants in upper case, launch options in lower case. What is no pointer or constant is a number."""
    types = _TABLES | dict(pointers)
    return KernelVariant(
        name,
        kernel,
        {argument: "constexpr" if argument.isupper() else types.get(argument, "i32") for argument in kernel.arg_names},
        {constant: value for constant, value in values.items() if constant.isupper()},
        _UNALIGNED & set(kernel.arg_names),
        {option: value for option, value in values.items() if option.islower()},
    )
