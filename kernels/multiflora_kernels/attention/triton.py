"""Paged attention in Triton: tiles of queries over ranges of keys.

Knows how an item of work is computed; plan.py says which items there are, merge.py how split ranges come together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from multiflora_kernels.attention.merge import merge_items
from multiflora_kernels.attention.plan import AttentionPlan, WorkList
from multiflora_kernels.attention.quantised_cache import block_size_of, is_quantised
from multiflora_kernels.attention.quantised_triton import (
    CODEC_NAMES,
    codec_arguments,
    decoded_scales,
    signature,
)
from multiflora_kernels.attention.step import AttentionStep
from multiflora_kernels.attention.tiles import (
    AttentionHeads,
    Tile,
    long_tile,
    short_tile,
)
from multiflora_kernels.runtime.codes import decoded
from multiflora_kernels.runtime.triton import (
    KernelVariant,
    dot_dtype,
    jit,
    jit_with_varying,
    power_of_two,
    tl,
)


@jit
def _over_keys(
    acc: tl.tensor,
    highest: tl.tensor,
    total: tl.tensor,
    q: tl.tensor,
    k_cache: tl.tensor,
    v_cache: tl.tensor,
    k_scales: tl.tensor,
    v_scales: tl.tensor,
    table: tl.tensor,
    first: tl.tensor,
    skip: tl.tensor,
    resume: tl.tensor,
    end: tl.tensor,
    positions: tl.tensor,
    slopes: tl.tensor,
    block_stride: tl.tensor,
    scale: tl.tensor,
    cap: tl.tensor,
    window: tl.tensor,
    MASKED: tl.constexpr,
    WINDOWED: tl.constexpr,
    CAPPED: tl.constexpr,
    SLOPED: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    HEAD_PADDED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CODEC: tl.constexpr,
    DOT: tl.constexpr,
) -> tl.tensor:
    """Online softmax (arXiv:2205.14135) over the keys first <= j < skip and resume <= j < end, in powers of two.

    acc: [M, D] weighted values, highest: [M] largest score so far, total: [M] sum of weights; all float32, returned.
    slopes: [M] float32 of each row's head, for powers of two; read if SLOPED. Without MASKED every row sees every key.
    skip - first is a multiple of BLOCK_N; without MASKED end - resume, too.
    """
    dims = tl.arange(0, HEAD_PADDED)
    is_dim = dims < HEAD_SIZE
    for walked in tl.range(first, end - (resume - skip), BLOCK_N):
        start = tl.where(walked < skip, walked, walked + (resume - skip))
        keys = start + tl.arange(0, BLOCK_N)
        is_key = keys < end
        if MASKED:
            blocks = tl.load(table + keys // BLOCK_SIZE, mask=is_key, other=0)
        else:
            blocks = tl.load(table + keys // BLOCK_SIZE)
        entries = blocks.to(tl.int64) * block_stride + (keys % BLOCK_SIZE) * HEAD_SIZE
        offsets = entries[:, None] + dims[None, :]
        # A weight of 0 does not cancel the NaN that an entry beyond a length may hold: such values are never loaded.
        if MASKED:
            k = tl.load(k_cache + offsets, mask=is_key[:, None] & is_dim[None, :], other=0.0)
            v = tl.load(v_cache + offsets, mask=is_key[:, None] & is_dim[None, :], other=0.0)
        elif HEAD_SIZE < HEAD_PADDED:
            k = tl.load(k_cache + offsets, mask=is_dim[None, :], other=0.0)
            v = tl.load(v_cache + offsets, mask=is_dim[None, :], other=0.0)
        else:
            k = tl.load(k_cache + offsets)
            v = tl.load(v_cache + offsets)
        if CODEC:
            places = blocks.to(tl.int64) * (block_stride // 2) + keys % BLOCK_SIZE
            if MASKED:
                k_scale = tl.load(k_scales + places, mask=is_key, other=0)
                v_scale = tl.load(v_scales + places, mask=is_key, other=0)
            else:
                k_scale = tl.load(k_scales + places)
                v_scale = tl.load(v_scales + places)
            k = decoded(k, CODEC)
            # Not with the weights: in float16 their products would be too small.
            v = decoded(v, CODEC) * decoded_scales(v_scale)[:, None]
        scores = tl.dot(q, tl.trans(k.to(DOT)), input_precision="ieee") * scale
        if CODEC:
            scores = scores * decoded_scales(k_scale)[None, :]
        if CAPPED:
            # tanh(s) = 1 - 2 / (e^2s + 1); the hardware has powers of two: 2 / ln 2 = 2.885...
            scores = cap * (1.0 - 2.0 / (tl.exp2(scores * 2.8853900817779268) + 1.0))
        if SLOPED:
            # Numbers of tokens are exact in float32, and converted before there is one for each score.
            distances = keys.to(tl.float32)[None, :] - positions.to(tl.float32)[:, None]
            scores += slopes[:, None] * distances
        if MASKED:
            seen = (keys[None, :] <= positions[:, None]) & is_key[None, :]
            if WINDOWED:
                seen = seen & (keys[None, :] > positions[:, None] - window)
            scores = tl.where(seen, scores, float("-inf"))
        risen = tl.maximum(highest, tl.max(scores, 1))
        level = risen
        if MASKED:
            # A row that has seen no key yet: -inf - -inf would be NaN.
            level = tl.where(risen == float("-inf"), 0.0, risen)
        weights = tl.exp2(scores - level[:, None])
        fade = tl.exp2(highest - level)
        total = total * fade + tl.sum(weights, 1)
        acc = tl.dot(weights.to(DOT), v.to(DOT), acc * fade[:, None], input_precision="ieee")
        highest = risen
    return acc, highest, total


@jit_with_varying("table_stride", "window")
def _attention_kernel(
    out: tl.tensor,
    partial: tl.tensor,
    partial_lse: tl.tensor,
    q: tl.tensor,
    k_cache: tl.tensor,
    v_cache: tl.tensor,
    k_scales: tl.tensor,
    v_scales: tl.tensor,
    block_tables: tl.tensor,
    items: tl.tensor,
    counts: tl.tensor,
    q_stride: tl.tensor,
    q_head_stride: tl.tensor,
    table_stride: tl.tensor,
    block_stride: tl.tensor,
    scale: tl.tensor,
    cap: tl.tensor,
    window: tl.tensor,
    sinks: tl.tensor,
    slopes: tl.tensor,
    WINDOWED: tl.constexpr,
    CAPPED: tl.constexpr,
    SINKS: tl.constexpr,
    SLOPED: tl.constexpr,
    GROUP: tl.constexpr,
    KV_HEADS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    HEAD_PADDED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WIDE_N: tl.constexpr,
    CODEC: tl.constexpr,
    DOT: tl.constexpr,
) -> None:
    """Program (g, i): item i for kv head g. Rows of the tile are (token, head of the group), heads fastest.

    An item: table row, first key, end key, slot (-1: the result is final), first token, tokens, position of the first.
    WIDE_N: keys of a pass over keys that all rows see; 0: those are masked like the others. SINKS: of split items, the
    merge adds them.
    """
    head = tl.program_id(0)
    index = tl.program_id(1)
    if index >= tl.load(counts):
        return
    item = items + index * 8
    row = tl.load(item)
    first = tl.load(item + 1)
    end = tl.load(item + 2)
    slot = tl.load(item + 3)
    first_token = tl.load(item + 4)
    tokens = tl.load(item + 5)
    position = tl.load(item + 6)

    rows = tl.arange(0, BLOCK_M)
    dims = tl.arange(0, HEAD_PADDED)
    places = rows // GROUP
    inside = (places < tokens)[:, None] & (dims < HEAD_SIZE)[None, :]
    token = (first_token + places).to(tl.int64)
    q_head = head * GROUP + rows % GROUP
    query = tl.load(q + (token * q_stride + q_head * q_head_stride)[:, None] + dims[None, :], mask=inside, other=0.0)
    query = query.to(DOT)
    positions = position + places

    table = block_tables + row.to(tl.int64) * table_stride
    PIECE: tl.constexpr = BLOCK_SIZE * (HEAD_SIZE + 2) if CODEC else BLOCK_SIZE * HEAD_SIZE
    keys = k_cache + head * PIECE
    values = v_cache + head * PIECE
    key_scales = k_scales + head * (PIECE // 2)
    value_scales = v_scales + head * (PIECE // 2)
    acc = tl.zeros([BLOCK_M, HEAD_PADDED], dtype=tl.float32)
    highest = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    if SINKS:
        highest = tl.where(slot < 0, tl.load(sinks + q_head) * 1.4426950408889634, highest)
        total = tl.where(slot < 0, total + 1.0, total)
    row_slopes = tl.zeros([BLOCK_M], dtype=tl.float32)
    if SLOPED:
        row_slopes = tl.load(slopes + q_head) * 1.4426950408889634
    skip = first
    resume = first
    # Most keys of a prefill are seen by every row of the tile: they go through wide steps that need no mask.
    if WIDE_N:
        if WINDOWED:
            # Up to here some row's window has not begun.
            begun = tl.minimum(tl.maximum(position + tokens - window, first), end)
            skip = tl.minimum(first + (begun - first + BLOCK_N - 1) // BLOCK_N * BLOCK_N, end)
        resume = skip + tl.maximum(tl.minimum(position + 1, end) - skip, 0) // WIDE_N * WIDE_N
        acc, highest, total = _over_keys(
            acc, highest, total, query, keys, values, key_scales, value_scales, table, skip, skip, skip, resume,
            positions, row_slopes, block_stride, scale, cap, window, False, WINDOWED, CAPPED, SLOPED, BLOCK_SIZE,
            HEAD_SIZE, HEAD_PADDED, WIDE_N, CODEC, DOT,
        )  # fmt: skip
    acc, highest, total = _over_keys(
        acc, highest, total, query, keys, values, key_scales, value_scales, table, first, skip, resume, end, positions,
        row_slopes, block_stride, scale, cap, window, True, WINDOWED, CAPPED, SLOPED, BLOCK_SIZE, HEAD_SIZE,
        HEAD_PADDED, BLOCK_N, CODEC, DOT,
    )  # fmt: skip

    seen = total != 0.0
    result = acc / tl.where(seen, total, 1.0)[:, None]
    if slot < 0:
        target = (token * (KV_HEADS * GROUP) + q_head) * HEAD_SIZE
        tl.store(out + target[:, None] + dims[None, :], result.to(out.dtype.element_ty), mask=inside)
    else:
        place = (slot.to(tl.int64) * KV_HEADS + head) * BLOCK_M + rows
        tl.store(partial + place[:, None] * HEAD_SIZE + dims[None, :], result, mask=inside)
        lse = tl.where(seen, highest + tl.log2(tl.where(seen, total, 1.0)), float("-inf"))
        tl.store(partial_lse + place, lse, mask=places < tokens)


def paged_attention_triton(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    step: AttentionStep,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """See `paged_attention`; step: with an `AttentionPlan`. Rows of no sequence are left as they are found."""
    plan = step.plan
    assert isinstance(plan, AttentionPlan), "kernels take their work from a plan"
    assert plan.window == step.window, "a plan for layers of this window"
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    for work in plan.lists:
        run_items(out, q, k_cache, v_cache, step, plan.heads, work, sinks)
        merge_items(out, plan.heads, work, sinks)
    return out


def run_items(
    out: torch.Tensor,
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    step: AttentionStep,
    heads: AttentionHeads,
    work: WorkList,
    sinks: torch.Tensor | None = None,
) -> None:
    """Whole items are written to out, [T, Hq, D] contiguous; split ones to the work's scratch."""
    tile, softcap = work.tile, step.softcap
    assert q.dtype == heads.dtype
    assert k_cache.dtype == v_cache.dtype
    assert heads.reads_codes == is_quantised(k_cache)
    assert heads.reads_codes or k_cache.dtype == q.dtype, "one dtype for queries and caches that are not quantised"
    assert k_cache.stride() == v_cache.stride(), "caches of the same layout"
    assert k_cache[0].is_contiguous(), "blocks in one piece"
    size, block_size = heads.head_size, block_size_of(k_cache, heads.head_size)
    k_codes, k_scales, codec = codec_arguments(k_cache, size)
    v_codes, v_scales, _ = codec_arguments(v_cache, size)
    assert q.stride(2) == 1, "heads in one piece"
    # Scores are powers of two inside, so the logarithm's base goes into the scale, or into the cap where there is one.
    _attention_kernel[(heads.kv_heads, work.items.shape[0])](
        out, work.partial, work.partial_lse, q, k_codes, v_codes, k_scales, v_scales, step.block_tables, work.items,
        work.counts,
        q.stride(0), q.stride(1), step.block_tables.stride(0), k_cache.stride(0),
        step.scale / softcap if softcap else step.scale * math.log2(math.e), (softcap or 0.0) * math.log2(math.e),
        step.window or 0, sinks, step.slopes, num_warps=tile.warps, num_stages=tile.stages,
        **_constants(
            heads, tile, block_size, codec, is_windowed=step.window is not None, is_capped=softcap is not None,
            has_sinks=sinks is not None, has_slopes=step.slopes is not None,
        ),
    )  # fmt: skip


def _constants(
    heads: AttentionHeads,
    tile: Tile,
    block_size: int,
    codec: int,
    *,
    is_windowed: bool,
    is_capped: bool,
    has_sinks: bool,
    has_slopes: bool,
) -> dict[str, Any]:
    return {
        "WINDOWED": is_windowed,
        "CAPPED": is_capped,
        "SINKS": has_sinks,
        "SLOPED": has_slopes,
        "GROUP": heads.group,
        "KV_HEADS": heads.kv_heads,
        "BLOCK_SIZE": block_size,
        "HEAD_SIZE": heads.head_size,
        "HEAD_PADDED": max(16, power_of_two(heads.head_size)),
        "BLOCK_M": tile.rows,
        "BLOCK_N": tile.keys,
        "WIDE_N": tile.wide or 0,
        "CODEC": codec,
        "DOT": dot_dtype(heads.dtype),
    }


def kernel_variants() -> Iterator[KernelVariant]:
    """For the ahead-of-time table: head sizes and dtypes of models, with what they have of window, soft cap, sinks and
    slopes, and by what the cache holds."""
    for q_heads, kv_heads, size, dtype, features, codec in (
        (32, 8, 64, "bf16", "", 0),
        (64, 8, 64, "bf16", "window softcap sinks", 0),
        (32, 8, 80, "bf16", "", 0),
        (32, 8, 128, "bf16", "", 0),
        (32, 8, 128, "bf16", "window", 0),
        (32, 8, 128, "fp32", "", 0),
        (32, 8, 256, "fp16", "window softcap", 0),
        (8, 1, 256, "bf16", "", 0),
        (32, 8, 128, "bf16", "window", 1),
        (32, 8, 128, "bf16", "", 2),
        (32, 8, 128, "bf16", "", 3),
        (32, 8, 128, "fp32", "", 1),
        (8, 1, 256, "bf16", "", 2),
        (32, 32, 64, "bf16", "slopes", 0),
        (40, 40, 128, "bf16", "slopes", 0),
        (32, 32, 128, "fp32", "slopes", 0),
        (40, 40, 128, "bf16", "slopes", 2),
        (32, 32, 128, "fp32", "slopes", 1),
    ):
        heads = AttentionHeads(q_heads, kv_heads, size, _TORCH_DTYPES[dtype], codec != 0)
        name = " ".join([f"H={q_heads}/{kv_heads} D={size} {dtype}", *features.split()]) + CODEC_NAMES[codec]
        for kind, tile_of in (("decode", short_tile), ("prefill", long_tile)):
            for tile, capabilities in _tiles(tile_of, heads):
                constants = _constants(
                    heads, tile, 16, codec, is_windowed="window" in features, is_capped="softcap" in features,
                    has_sinks="sinks" in features, has_slopes="slopes" in features,
                )  # fmt: skip
                yield _attention_variant(f"attention {kind} {name}", tile, dtype, constants, capabilities)


def _tiles(
    tile_of: Callable[[AttentionHeads, int], Tile], heads: AttentionHeads
) -> Iterator[tuple[Tile, tuple[int, ...]]]:
    """The tiles of all classes; those that are compiled alike once, and what 86 has in common with 80 for 80 alone."""
    distinct: dict[Tile, list[int]] = {}
    for capability in (80, 90, 86):
        distinct.setdefault(replace(tile_of(heads, capability), occupancy=1), []).append(capability)
    for tile, capabilities in distinct.items():
        yield tile, tuple(c for c in capabilities if c != 86) or (86,)


_TORCH_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def _attention_variant(
    name: str, tile: Tile, dtype: str, constants: Mapping[str, Any], capabilities: tuple[int, ...]
) -> KernelVariant:
    return KernelVariant(
        name if len(capabilities) > 1 else f"{name} sm_{capabilities[0]}",
        _attention_kernel,
        {"out": f"*{dtype}", "partial": "*fp32", "partial_lse": "*fp32"}
        | {"q": f"*{dtype}"}
        | signature(dtype, constants["CODEC"])
        | dict.fromkeys(("block_tables", "items", "counts"), "*i32")
        | dict.fromkeys(("q_stride", "q_head_stride", "table_stride", "block_stride"), "i32")
        | {"scale": "fp32", "cap": "fp32", "window": "i32", "sinks": "*fp32", "slopes": "*fp32"}
        | dict.fromkeys(constants, "constexpr"),
        constants,
        unaligned=frozenset({"table_stride", "window"}),
        options={"num_warps": tile.warps, "num_stages": tile.stages},
        capabilities=capabilities,
    )
