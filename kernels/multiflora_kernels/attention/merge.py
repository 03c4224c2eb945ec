"""The results of keys that were split among several items, merged in Triton: Flash-Decoding's second step.

Deterministic: a row's slots are added in their order. Knows nothing of keys and values.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from multiflora_kernels.attention.plan import WorkList
from multiflora_kernels.attention.tiles import AttentionHeads, Tile, short_tile
from multiflora_kernels.runtime.triton import (
    KernelVariant,
    jit,
    power_of_two,
    tl,
)

_MERGED_AT_ONCE = 16


@jit
def weigh_slots(
    acc: tl.tensor,
    highest: tl.tensor,
    total: tl.tensor,
    partial: tl.tensor,
    partial_lse: tl.tensor,
    first: tl.tensor,
    slots: tl.tensor,
    row: tl.tensor,
    SLOT_ROWS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    HEAD_PADDED: tl.constexpr,
    AT_ONCE: tl.constexpr,
) -> tl.tensor:
    """Adds row `row` of the slots first <= s < first + slots, in order, each weighted by its sum (as in _over_keys)."""
    dims = tl.arange(0, HEAD_PADDED)
    for start in tl.range(0, slots, AT_ONCE):
        slot = start + tl.arange(0, AT_ONCE)
        is_slot = slot < slots
        rows = (first + slot).to(tl.int64) * SLOT_ROWS + row
        lse = tl.load(partial_lse + rows, mask=is_slot, other=float("-inf"))
        inside = is_slot[:, None] & (dims < HEAD_SIZE)[None, :]
        results = tl.load(partial + rows[:, None] * HEAD_SIZE + dims[None, :], mask=inside, other=0.0)
        risen = tl.maximum(highest, tl.max(lse, 0))
        level = tl.where(risen == float("-inf"), 0.0, risen)
        weights = tl.exp2(lse - level)
        fade = tl.exp2(highest - level)
        total = total * fade + tl.sum(weights, 0)
        acc = acc * fade + tl.sum(weights[:, None] * results, 0)
        highest = risen
    return acc, highest, total


@jit
def _merge_kernel(
    out: tl.tensor,
    partial: tl.tensor,
    partial_lse: tl.tensor,
    merges: tl.tensor,
    counts: tl.tensor,
    sinks: tl.tensor,
    SINKS: tl.constexpr,
    GROUP: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    HEAD_PADDED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    AT_ONCE: tl.constexpr,
) -> None:
    """Program (h, m, t): query head h of token t of merge m. Flash-Decoding's second step.

    A merge: first slot, slots, first token, tokens.
    """
    q_head = tl.program_id(0)
    index = tl.program_id(1)
    place = tl.program_id(2)
    if index >= tl.load(counts + 1):
        return
    merge = merges + index * 4
    if place >= tl.load(merge + 3):
        return
    row = (q_head // GROUP) * BLOCK_M + place * GROUP + q_head % GROUP
    acc = tl.zeros([HEAD_PADDED], dtype=tl.float32)
    highest = tl.full([], float("-inf"), dtype=tl.float32)
    total = tl.full([], 0.0, dtype=tl.float32)
    acc, highest, total = weigh_slots(
        acc, highest, total, partial, partial_lse, tl.load(merge), tl.load(merge + 1), row,
        KV_HEADS * BLOCK_M, HEAD_SIZE, HEAD_PADDED, AT_ONCE,
    )  # fmt: skip
    if SINKS:
        sink = tl.load(sinks + q_head) * 1.4426950408889634
        level = tl.maximum(highest, sink)
        fade = tl.exp2(highest - level)
        acc = acc * fade
        total = total * fade + tl.exp2(sink - level)
    result = acc / tl.where(total != 0.0, total, 1.0)
    token = (tl.load(merge + 2) + place).to(tl.int64)
    dims = tl.arange(0, HEAD_PADDED)
    target = (token * (KV_HEADS * GROUP) + q_head) * HEAD_SIZE
    tl.store(out + target + dims, result.to(out.dtype.element_ty), mask=dims < HEAD_SIZE)


def merge_items(out: torch.Tensor, heads: AttentionHeads, work: WorkList, sinks: torch.Tensor | None = None) -> None:
    """The results of split items, merged into out, with sinks [Hq] float32 if there are any. Deterministic: a row's
    slots are added in their order."""
    tile = work.tile
    grid = (heads.q_heads, work.merges.shape[0], work.most_tokens)
    _merge_kernel[grid](
        out, work.partial, work.partial_lse, work.merges, work.counts, sinks, SINKS=sinks is not None,
        num_warps=4, **merge_constants(heads, tile),
    )  # fmt: skip


def merge_constants(heads: AttentionHeads, tile: Tile) -> dict[str, int]:
    return {
        "GROUP": heads.group,
        "KV_HEADS": heads.kv_heads,
        "HEAD_SIZE": heads.head_size,
        "HEAD_PADDED": power_of_two(heads.head_size),
        "BLOCK_M": tile.rows,
        "AT_ONCE": _MERGED_AT_ONCE,
    }


def kernel_variants() -> Iterator[KernelVariant]:
    """For the ahead-of-time table."""
    heads = AttentionHeads(32, 8, 128, torch.bfloat16)
    for has_sinks in (False, True):
        constants = merge_constants(heads, short_tile(heads, 90)) | {"SINKS": int(has_sinks)}
        yield KernelVariant(
            "merge D=128 bf16" + " sinks" * has_sinks,
            _merge_kernel,
            {"out": "*bf16", "partial": "*fp32", "partial_lse": "*fp32", "merges": "*i32", "counts": "*i32"}
            | {"sinks": "*fp32"}
            | dict.fromkeys(constants, "constexpr"),
            constants,
            options={"num_warps": 4},
        )
