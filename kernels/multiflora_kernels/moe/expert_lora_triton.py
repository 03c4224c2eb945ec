"""LoRA on experts in Triton: shrink and expand of all adapters of a batch, each over the tiles of the base's products.

A tile holds pairs of one expert; a program takes the adapters among its rows one after another, by their slots, so that
each product is of one expert and one adapter. As tokens of an adapter are neighbours in a batch, and pairs keep their
order, a tile has more than one seldom. Where an adapter's weights lie, a table of addresses says, which changes when
adapters come and go: a graph that is replayed later reads it anew. All sums have one order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch

from multiflora_kernels.lora.launch import DTYPES, TORCH_DTYPES, split_k
from multiflora_kernels.lora.tiles import PREFILL_TILE
from multiflora_kernels.lora.triton import rows_delta
from multiflora_kernels.moe.tiles import ExpertTiles
from multiflora_kernels.runtime.triton import KernelVariant, dot_dtype, jit, jit_with_varying, tl

MAX_SITES = 2
_RANKS = 16
_COLUMNS = 64


class ExpertSite(Protocol):
    """One linear of all experts that adapters touch; the adapters' pool implements it.

    addresses: int64 [slots, 5]: of a slot's a, b, offsets, ranks and magnitude as of `LoraSite` with experts in place
    of slots; 0 of a slot without, or without a magnitude. max_rank: no expert of an adapter has more.
    """

    @property
    def addresses(self) -> torch.Tensor: ...
    @property
    def max_rank(self) -> int: ...


@jit
def _rank_of(entry: tl.tensor, expert: tl.tensor) -> tl.tensor:
    """Of an expert's LoRA, and its first row; 0, 0 where the slot has none."""
    rank = tl.full([], 0, tl.int32)
    first = tl.full([], 0, tl.int32)
    ranks = tl.load(entry + 3)
    if ranks != 0:
        rank = tl.load(ranks.to(tl.pointer_type(tl.int32)) + expert)
        first = tl.load(tl.load(entry + 2).to(tl.pointer_type(tl.int32)) + expert)
    return rank, first


@jit_with_varying("share", "top_k")
def _expert_shrink_kernel(
    h: tl.tensor, x: tl.tensor, order: tl.tensor, table: tl.tensor, row_slots: tl.tensor, site0: tl.tensor,
    site1: tl.tensor, k: tl.tensor, x_stride: tl.tensor, max_rank: tl.tensor, h_split: tl.tensor, part: tl.tensor,
    share: tl.tensor, top_k: tl.tensor, SITES: tl.constexpr, TILE: tl.constexpr, RANKS: tl.constexpr,
    BLOCK_K: tl.constexpr, DOT: tl.constexpr,
) -> None:  # fmt: skip
    """h: [parts, P, SITES, max_rank] float32; program (i, site, part): rank values of the pairs of slot i of the table,
    over some inputs. Row p of h is of row p // share of x, and of token p // top_k."""
    tile = table + tl.program_id(0) * 4
    count = tl.load(tile + 1)
    if count == 0:
        return
    site = tl.program_id(1)
    expert = tl.load(tile + 2)
    places = tl.arange(0, TILE)
    here = places < count
    pairs = tl.load(order + tl.load(tile) + places, mask=here, other=0)
    x_rows = x + (pairs // share).to(tl.int64) * x_stride
    slots = tl.load(row_slots + pairs // top_k, mask=here, other=-1)
    k_begin = tl.program_id(2) * part
    k_end = tl.minimum(k, k_begin + part)
    h_rows = h + tl.program_id(2).to(tl.int64) * h_split + (pairs.to(tl.int64) * SITES + site) * max_rank
    addresses = site0
    if SITES > 1:
        addresses = tl.where(site == 1, site1, site0)
    slot = tl.min(tl.where(slots >= 0, slots, 0x7FFFFFFF), 0)
    while slot < 0x7FFFFFFF:
        mine = slots == slot
        entry = addresses + slot * 5
        rank, first = _rank_of(entry, expert)
        if rank > 0:
            a = tl.multiple_of(tl.load(entry), 16).to(tl.pointer_type(x.dtype.element_ty)) + first.to(tl.int64) * k
            for r in tl.range(0, rank, RANKS):
                rows = r + tl.arange(0, RANKS)
                live = rows < rank
                total = tl.zeros((TILE, RANKS), dtype=tl.float32)
                for start in tl.range(k_begin, k_end, BLOCK_K):
                    inputs = start + tl.arange(0, BLOCK_K)
                    inside = inputs < k_end
                    values = tl.load(x_rows[:, None] + inputs[None, :], mask=mine[:, None] & inside[None, :], other=0.0)
                    weights = tl.load(
                        a + rows.to(tl.int64)[None, :] * k + inputs[:, None],
                        mask=live[None, :] & inside[:, None], other=0.0,
                    )  # fmt: skip
                    total = tl.dot(values.to(DOT), weights.to(DOT), total, input_precision="ieee")
                tl.store(h_rows[:, None] + rows[None, :], total, mask=mine[:, None] & live[None, :])
        slot = tl.min(tl.where(slots > slot, slots, 0x7FFFFFFF), 0)


@jit_with_varying("top_k")
def _expert_expand_kernel(
    y: tl.tensor, h: tl.tensor, order: tl.tensor, table: tl.tensor, row_slots: tl.tensor, site0: tl.tensor,
    site1: tl.tensor, first0: tl.tensor, first1: tl.tensor, width0: tl.tensor, width1: tl.tensor, y_stride: tl.tensor,
    max_rank: tl.tensor, h_split: tl.tensor, top_k: tl.tensor, SITES: tl.constexpr, TILE: tl.constexpr,
    RANKS: tl.constexpr, BLOCK_N: tl.constexpr, SPLITS: tl.constexpr, DOT: tl.constexpr,
) -> None:  # fmt: skip
    """y: [P, N] in place, h of `_expert_shrink_kernel`; program (n, i, site): BLOCK_N columns of a site for slot i."""
    tile = table + tl.program_id(1) * 4
    count = tl.load(tile + 1)
    if count == 0:
        return
    site = tl.program_id(2)
    addresses = site0
    begin = first0
    width = width0
    if SITES > 1:
        addresses = tl.where(site == 1, site1, site0)
        begin = tl.where(site == 1, first1, first0)
        width = tl.where(site == 1, width1, width0)
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = columns < width
    expert = tl.load(tile + 2)
    places = tl.arange(0, TILE)
    here = places < count
    pairs = tl.load(order + tl.load(tile) + places, mask=here, other=0)
    slots = tl.load(row_slots + pairs // top_k, mask=here, other=-1)
    h_rows = (h + (pairs.to(tl.int64) * SITES + site) * max_rank)[:, None]
    targets = y + pairs.to(tl.int64)[:, None] * y_stride + (begin + columns)[None, :]
    slot = tl.min(tl.where(slots >= 0, slots, 0x7FFFFFFF), 0)
    while slot < 0x7FFFFFFF:
        mine = slots == slot
        entry = addresses + slot * 5
        rank, first = _rank_of(entry, expert)
        if rank > 0:
            b = tl.multiple_of(tl.load(entry + 1), 16).to(tl.pointer_type(y.dtype.element_ty))
            delta = rows_delta(
                h_rows, b + first.to(tl.int64) * width, mine, rank, columns, inside, width, h_split, TILE, RANKS,
                BLOCK_N, SPLITS, DOT,
            )  # fmt: skip
            both = mine[:, None] & inside[None, :]
            total = tl.load(targets, mask=both, other=0.0).to(tl.float32) + delta
            magnitude = tl.load(entry + 4)
            if magnitude != 0:
                scales = magnitude.to(tl.pointer_type(tl.float32)) + expert.to(tl.int64) * width + columns
                total = total * tl.load(scales, mask=inside, other=1.0)[None, :]
            tl.store(targets, total.to(y.dtype.element_ty), mask=both)
        slot = tl.min(tl.where(slots > slot, slots, 0x7FFFFFFF), 0)


def lora_experts_triton_(
    y: torch.Tensor,
    x: torch.Tensor,
    sites: Sequence[ExpertSite],
    columns: Sequence[tuple[int, int]],
    tiles: ExpertTiles,
    row_slots: torch.Tensor,
    *,
    has_row_for_token: bool,
) -> None:
    """y: [P, N] in place, pair by pair; x: [T, K] if has_row_for_token, else [P, K]; row_slots: int32 [T], -1 of the
    base's tokens; at most MAX_SITES sites. Semantics: `lora_experts_reference_`, whose rows are sorted; a magnitude
    scales the sum."""
    k, pairs, form = x.shape[1], len(y), _form(tiles.rows, x.dtype)
    part = split_k(k, min(tiles.rows, PREFILL_TILE))
    max_rank = max(site.max_rank for site in sites)
    h = torch.empty((-(-k // part), pairs, len(sites), max_rank), dtype=torch.float32, device=x.device)
    first, last = sites[0].addresses, sites[-1].addresses
    share = tiles.top_k if has_row_for_token else 1
    options = {"SITES": len(sites), "TILE": tiles.rows, "RANKS": _RANKS, "DOT": dot_dtype(x.dtype)}
    _expert_shrink_kernel[(tiles.slots, len(sites), len(h))](
        h, x, tiles.order, tiles.table, row_slots, first, last, k, x.stride(0), max_rank, h.stride(0), part, share,
        tiles.top_k, BLOCK_K=form["BLOCK_K"], num_warps=form["num_warps"], **options,
    )  # fmt: skip
    widths = [end - begin for begin, end in columns]
    _expert_expand_kernel[(-(-max(widths) // _COLUMNS), tiles.slots, len(sites))](
        y, h, tiles.order, tiles.table, row_slots, first, last, columns[0][0], columns[-1][0], widths[0], widths[-1],
        y.stride(0), max_rank, h.stride(0), tiles.top_k, BLOCK_N=_COLUMNS, SPLITS=len(h), num_warps=form["num_warps"],
        **options,
    )  # fmt: skip


def _form(rows: int, dtype: torch.dtype) -> dict[str, int]:
    """The sizes at which no register is spilled."""
    if rows <= _RANKS:
        return {"BLOCK_K": 128, "num_warps": 4}
    if dtype == torch.float32:
        return {"BLOCK_K": 32, "num_warps": 4}
    return {"BLOCK_K": 64, "num_warps": 4 if rows <= PREFILL_TILE else 8}


def kernel_variants() -> Iterator[KernelVariant]:
    """For the ahead-of-time table."""
    for kind, rows in (("bf16", 16), ("bf16", 64), ("bf16", 128), ("fp32", 16), ("fp32", 64)):
        form = _form(rows, TORCH_DTYPES[kind])
        constants: dict[str, Any] = {"SITES": 2, "TILE": rows, "RANKS": _RANKS, "DOT": DTYPES[kind]}
        yield _variant(f"experts lora_shrink {kind} rows={rows}", _expert_shrink_kernel, kind,
                       constants | {"BLOCK_K": form["BLOCK_K"]}, form["num_warps"])  # fmt: skip
        yield _variant(f"experts lora_expand {kind} rows={rows}", _expert_expand_kernel, kind,
                       constants | {"BLOCK_N": _COLUMNS, "SPLITS": 4}, form["num_warps"])  # fmt: skip


def _variant(name: str, kernel: Any, kind: str, constants: dict[str, Any], warps: int) -> KernelVariant:
    types = dict.fromkeys(("y", "x"), f"*{kind}") | {"h": "*fp32", "site0": "*i64", "site1": "*i64"}
    types |= dict.fromkeys(("order", "table", "row_slots"), "*i32")
    return KernelVariant(
        name,
        kernel,
        {argument: "constexpr" if argument.isupper() else types.get(argument, "i32") for argument in kernel.arg_names},
        constants,
        frozenset({"share", "top_k"} & set(kernel.arg_names)),
        {"num_warps": warps},
    )
