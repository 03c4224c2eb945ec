"""Batched LoRA on a GPU: shrink to float32 rank values, expand into y. Knows tiles and sites, not who made them.

A work item is (tile, site, part of K or columns), and a program takes items until none is left: grids are made for a
capacity, work follows the adapters present, whose tiles the table counts. A program holds 16 rank rows and goes on
until its adapter's rank is reached, so that ranks of one launch differ freely. A tile of one token (of many adapters,
the memory's bandwidth is what counts) is multiplied on the plain units, weights streaming through shared memory in
16-byte copies several blocks ahead; larger tiles go to tensor cores, so that what is read of the weights serves all
their tokens. K is cut into parts for enough programs; the consumer of h sums the parts in a fixed order, in float32.
"""

from __future__ import annotations

from multiflora_kernels.runtime.triton import jit, jit_with_varying, tl


@jit
def pick(site: tl.tensor, first: tl.tensor, second: tl.tensor, third: tl.tensor, SITES: tl.constexpr) -> tl.tensor:
    """The argument of this site."""
    picked = first
    if SITES > 1:
        picked = tl.where(site == 1, second, picked)
    if SITES > 2:
        picked = tl.where(site == 2, third, picked)
    return picked


@jit
def _shrink_token(
    h: tl.tensor, x: tl.tensor, a: tl.tensor, rank: tl.tensor, k: tl.tensor, k_begin: tl.tensor, k_end: tl.tensor,
    RANKS: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
) -> None:  # fmt: skip
    """h[:rank] = x[k_begin:k_end] . a[:rank, k_begin:k_end] of one token, RANKS x BLOCK_K weights after the other."""
    chunks = tl.cdiv(k_end - k_begin, BLOCK_K)
    total = tl.zeros((RANKS,), dtype=tl.float32)
    for step in tl.range(0, tl.cdiv(rank, RANKS) * chunks, num_stages=STAGES):
        chunk = step % chunks
        rows = step // chunks * RANKS + tl.arange(0, RANKS)
        live = rows < rank
        columns = k_begin + chunk * BLOCK_K + tl.arange(0, BLOCK_K)
        inside = columns < k_end
        places = a + rows.to(tl.int64)[:, None] * k + columns[None, :]
        weights = tl.load(places, mask=live[:, None] & inside[None, :], other=0.0).to(tl.float32)
        values = tl.load(x + columns, mask=inside, other=0.0).to(tl.float32)
        product = tl.sum(weights * values[None, :], axis=1)
        total = tl.where(chunk == 0, product, total + product)
        tl.store(h + rows, total, mask=live & (chunk == chunks - 1))


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


@jit_with_varying("items", "splits")
def _shrink_kernel(
    h: tl.tensor, x: tl.tensor, tiles: tl.tensor, offsets0: tl.tensor, offsets1: tl.tensor, offsets2: tl.tensor,
    a0: tl.tensor, a1: tl.tensor, a2: tl.tensor, ranks0: tl.tensor, ranks1: tl.tensor, ranks2: tl.tensor,
    k: tl.tensor, x_stride: tl.tensor, max_rank: tl.tensor, h_split: tl.tensor, split_k: tl.tensor, splits: tl.tensor,
    items: tl.tensor, SITES: tl.constexpr, TILE: tl.constexpr, BLOCK_K: tl.constexpr, TOKEN_K: tl.constexpr,
    STAGES: tl.constexpr, DOT: tl.constexpr,
) -> None:  # fmt: skip
    """h: [splits, T, SITES, max_rank] float32: for each part of K, x [T, K] . A [R, K] of a token's adapter."""
    h_stride = SITES * max_rank
    items = tl.minimum(items, tl.load(tiles + 3) * SITES * splits)
    for item in range(tl.program_id(0), items, tl.num_programs(0)):
        site = item % SITES
        split = (item // SITES) % splits
        tile = tiles + item // (SITES * splits) * 5
        first, count, slot = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
        used = (slot >= 0) & (count > 0)
        rank = tl.load(pick(site, ranks0, ranks1, ranks2, SITES) + slot, mask=used, other=0)
        a = (
            pick(site, a0, a1, a2, SITES)
            + tl.load(pick(site, offsets0, offsets1, offsets2, SITES) + slot, mask=used, other=0).to(tl.int64) * k
        )
        k_begin = split * split_k
        k_end = tl.minimum(k, k_begin + split_k)
        out = h + split.to(tl.int64) * h_split + site * max_rank
        if count == 1:
            row = first.to(tl.int64)
            _shrink_token(out + row * h_stride, x + row * x_stride, a, rank, k, k_begin, k_end, 16, TOKEN_K, STAGES)
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
def _expand_token(
    y: tl.tensor, h: tl.tensor, b: tl.tensor, bias: tl.tensor, magnitude: tl.tensor, scaled: tl.tensor,
    rank: tl.tensor, begin: tl.tensor, end: tl.tensor, width: tl.tensor, h_split: tl.tensor,
    BLOCK_N: tl.constexpr, RANKS: tl.constexpr, SPLITS: tl.constexpr, PADDED: tl.constexpr, STAGES: tl.constexpr,
    DORA: tl.constexpr, HAS_BIAS: tl.constexpr, ADD: tl.constexpr,
) -> None:  # fmt: skip
    """y[begin:end] += (= without ADD) h[:rank] @ b[:rank, begin:end] of one token."""
    rank_blocks = tl.cdiv(rank, RANKS)
    splits = tl.arange(0, PADDED)
    total = tl.zeros((BLOCK_N,), dtype=tl.float32)
    for step in tl.range(0, tl.cdiv(end - begin, BLOCK_N) * rank_blocks, num_stages=STAGES):
        rank_block = step % rank_blocks
        rows = rank_block * RANKS + tl.arange(0, RANKS)
        live = rows < rank
        columns = begin + step // rank_blocks * BLOCK_N + tl.arange(0, BLOCK_N)
        inside = columns < end
        places = b + rows.to(tl.int64)[:, None] * width + columns[None, :]
        weights = tl.load(places, mask=live[:, None] & inside[None, :], other=0.0).to(tl.float32)
        before = tl.zeros((BLOCK_N,), dtype=tl.float32)
        if ADD:
            before = tl.load(y + columns, mask=inside, other=0.0).to(tl.float32)
        rank_values = tl.load(
            h + splits.to(tl.int64)[:, None] * h_split + rows[None, :],
            mask=(splits < SPLITS)[:, None] & live[None, :], other=0.0,
        )  # fmt: skip
        product = tl.sum(weights * tl.sum(rank_values, axis=0)[:, None], axis=0)
        total = tl.where(rank_block == 0, before, total) + product
        result = total
        if DORA:
            scale = tl.load(magnitude + columns, mask=inside & scaled, other=1.0)
            base = tl.zeros((BLOCK_N,), dtype=tl.float32)
            if HAS_BIAS:
                base = tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
            result = base + scale * (total - base)
        tl.store(y + columns, result.to(y.dtype.element_ty), mask=inside & (rank_block == rank_blocks - 1))


@jit
def _expand_rows(
    y: tl.tensor, h: tl.tensor, b: tl.tensor, bias: tl.tensor, magnitude: tl.tensor, scaled: tl.tensor,
    count: tl.tensor, rank: tl.tensor, begin: tl.tensor, end: tl.tensor, width: tl.tensor,
    y_stride: tl.tensor, h_stride: tl.tensor, h_split: tl.tensor,
    TILE: tl.constexpr, BLOCK_N: tl.constexpr, RANKS: tl.constexpr, SPLITS: tl.constexpr, STAGES: tl.constexpr,
    DORA: tl.constexpr, HAS_BIAS: tl.constexpr, ADD: tl.constexpr, DOT: tl.constexpr,
) -> None:  # fmt: skip
    """The same for the `count` tokens of a tile, on tensor cores.

    The rank values go in as the sum of two numbers of the weights' type, so that they are not rounded to it.
    """
    rank_blocks = tl.cdiv(rank, RANKS)
    tokens = tl.arange(0, TILE)
    here = tokens < count
    y_rows = y + tokens.to(tl.int64)[:, None] * y_stride
    h_rows = h + tokens.to(tl.int64)[:, None] * h_stride
    total = tl.zeros((TILE, BLOCK_N), dtype=tl.float32)
    for step in tl.range(0, tl.cdiv(end - begin, BLOCK_N) * rank_blocks, num_stages=STAGES):
        rank_block = step % rank_blocks
        rows = rank_block * RANKS + tl.arange(0, RANKS)
        live = rows < rank
        columns = begin + step // rank_blocks * BLOCK_N + tl.arange(0, BLOCK_N)
        inside = columns < end
        last = here[:, None] & inside[None, :] & (rank_block == rank_blocks - 1)
        places = b + rows.to(tl.int64)[:, None] * width + columns[None, :]
        weights = tl.load(places, mask=live[:, None] & inside[None, :], other=0.0).to(DOT)
        before = tl.zeros((TILE, BLOCK_N), dtype=y.dtype.element_ty)
        if ADD:
            before = tl.load(y_rows + columns[None, :], mask=last, other=0.0)
        rank_values = h_rows + rows[None, :]
        values = tl.load(rank_values, mask=here[:, None] & live[None, :], other=0.0)
        for split in tl.static_range(1, SPLITS):
            values += tl.load(rank_values + split * h_split, mask=here[:, None] & live[None, :], other=0.0)
        high = values.to(DOT)
        total = tl.where(rank_block == 0, 0.0, total)
        total = tl.dot(high, weights, total, input_precision="ieee")
        if tl.float32 != DOT:
            total = tl.dot((values - high.to(tl.float32)).to(DOT), weights, total, input_precision="ieee")
        result = before.to(tl.float32) + total
        if DORA:
            scale = tl.load(magnitude + columns, mask=inside & scaled, other=1.0)
            base = tl.zeros((BLOCK_N,), dtype=tl.float32)
            if HAS_BIAS:
                base = tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
            result = base[None, :] + scale[None, :] * (result - base[None, :])
        tl.store(y_rows + columns[None, :], result.to(y.dtype.element_ty), mask=last)


@jit
def token_delta(
    h: tl.tensor, b: tl.tensor, rank: tl.tensor, columns: tl.tensor, inside: tl.tensor, width: tl.tensor,
    h_split: tl.tensor, RANKS: tl.constexpr, BLOCK_N: tl.constexpr, SPLITS: tl.constexpr, PADDED: tl.constexpr,
    STAGES: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """h[:rank] @ b[:rank, columns] of one token, float32 [BLOCK_N]: for consumers of y that add it on their way."""
    total = tl.zeros((BLOCK_N,), dtype=tl.float32)
    splits = tl.arange(0, PADDED)
    for r in tl.range(0, rank, RANKS, num_stages=STAGES):
        rows = r + tl.arange(0, RANKS)
        live = rows < rank
        places = b + rows.to(tl.int64)[:, None] * width + columns[None, :]
        weights = tl.load(places, mask=live[:, None] & inside[None, :], other=0.0).to(tl.float32)
        rank_values = tl.load(
            h + splits.to(tl.int64)[:, None] * h_split + rows[None, :],
            mask=(splits < SPLITS)[:, None] & live[None, :], other=0.0,
        )  # fmt: skip
        total += tl.sum(weights * tl.sum(rank_values, axis=0)[:, None], axis=0)
    return total


@jit
def rows_delta(
    h_rows: tl.tensor, b: tl.tensor, here: tl.tensor, rank: tl.tensor, columns: tl.tensor, inside: tl.tensor,
    width: tl.tensor, h_split: tl.tensor, TILE: tl.constexpr, RANKS: tl.constexpr, BLOCK_N: tl.constexpr,
    SPLITS: tl.constexpr, DOT: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """The same for the tokens of a tile, float32 [TILE, BLOCK_N]; h_rows: pointers [TILE, 1]."""
    total = tl.zeros((TILE, BLOCK_N), dtype=tl.float32)
    for r in range(0, rank, RANKS):
        rows = r + tl.arange(0, RANKS)
        live = rows < rank
        places = b + rows.to(tl.int64)[:, None] * width + columns[None, :]
        weights = tl.load(places, mask=live[:, None] & inside[None, :], other=0.0).to(DOT)
        values = tl.load(h_rows + rows[None, :], mask=here[:, None] & live[None, :], other=0.0)
        for split in tl.static_range(1, SPLITS):
            values += tl.load(h_rows + rows[None, :] + split * h_split, mask=here[:, None] & live[None, :], other=0.0)
        high = values.to(DOT)
        total = tl.dot(high, weights, total, input_precision="ieee")
        if tl.float32 != DOT:
            total = tl.dot((values - high.to(tl.float32)).to(DOT), weights, total, input_precision="ieee")
    return total


@jit_with_varying("items")
def _expand_kernel(
    y: tl.tensor, h: tl.tensor, tiles: tl.tensor, offsets0: tl.tensor, offsets1: tl.tensor, offsets2: tl.tensor,
    bias: tl.tensor, b0: tl.tensor, b1: tl.tensor, b2: tl.tensor,
    ranks0: tl.tensor, ranks1: tl.tensor, ranks2: tl.tensor,
    magnitude0: tl.tensor, magnitude1: tl.tensor, magnitude2: tl.tensor,
    first0: tl.tensor, first1: tl.tensor, first2: tl.tensor, width0: tl.tensor, width1: tl.tensor, width2: tl.tensor,
    y_stride: tl.tensor, max_rank: tl.tensor, h_split: tl.tensor, items: tl.tensor, run: tl.tensor,
    SITES: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr, PADDED: tl.constexpr, TOKEN_N: tl.constexpr,
    ROWS_N: tl.constexpr, STAGES: tl.constexpr, DORA: tl.constexpr, HAS_BIAS: tl.constexpr, ADD: tl.constexpr,
    DOT: tl.constexpr,
) -> None:  # fmt: skip
    """y: [T, N] in place, h from `_shrink_kernel`; an item is a tile and `run` columns of one site.

    ADD: to what y holds; else that is written over. DORA: bit i says that site i has magnitudes.
    """
    before1 = tl.cdiv(width0, run)
    before2 = before1 + (tl.cdiv(width1, run) if SITES > 1 else 0)
    parts = before2 + (tl.cdiv(width2, run) if SITES > 2 else 0)
    h_stride = SITES * max_rank
    items = tl.minimum(items, tl.load(tiles + 3) * parts)
    for item in range(tl.program_id(0), items, tl.num_programs(0)):
        part = item % parts
        tile = tiles + item // parts * 5
        first, count, slot = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
        if (slot >= 0) & (count > 0):
            site = (part >= before1).to(tl.int32) + (part >= before2).to(tl.int32)
            rank = tl.load(pick(site, ranks0, ranks1, ranks2, SITES) + slot)
            width = pick(site, width0, width1, width2, SITES)
            b = (
                pick(site, b0, b1, b2, SITES)
                + tl.load(pick(site, offsets0, offsets1, offsets2, SITES) + slot).to(tl.int64) * width
            )
            begin = (part - pick(site, 0, before1, before2, SITES)) * run
            end = tl.minimum(width, begin + run)
            place = pick(site, first0, first1, first2, SITES)
            scaled = ((DORA >> site) & 1) != 0
            scales = magnitude0
            if DORA != 0:
                scales = pick(site, magnitude0, magnitude1, magnitude2, SITES) + slot.to(tl.int64) * width
            y_tile = y + first.to(tl.int64) * y_stride + place
            h_tile = h + first.to(tl.int64) * h_stride + site * max_rank
            bias_tile = bias
            if HAS_BIAS:
                bias_tile = bias + place
            if count == 1:
                _expand_token(
                    y_tile, h_tile, b, bias_tile, scales, scaled, rank, begin, end, width, h_split,
                    TOKEN_N, 16, SPLITS, PADDED, STAGES, DORA != 0, HAS_BIAS, ADD,
                )  # fmt: skip
            else:
                _expand_rows(
                    y_tile, h_tile, b, bias_tile, scales, scaled, count, rank, begin, end, width,
                    y_stride, h_stride, h_split, TILE, ROWS_N, 16, SPLITS, STAGES, DORA != 0, HAS_BIAS,
                    ADD, DOT,
                )  # fmt: skip


@jit_with_varying("items")
def _gather_kernel(
    h: tl.tensor, token_ids: tl.tensor, tiles: tl.tensor, offsets: tl.tensor, a: tl.tensor, ranks: tl.tensor,
    a_stride: tl.tensor, max_rank: tl.tensor, items: tl.tensor, TILE: tl.constexpr, RANKS: tl.constexpr,
) -> None:  # fmt: skip
    """h: [T, max_rank] float32: for an embedding's A [V, R], the row of the token."""
    items = tl.minimum(items, tl.load(tiles + 3))
    for item in range(tl.program_id(0), items, tl.num_programs(0)):
        tile = tiles + item * 5
        first, count, slot = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
        rank = tl.load(ranks + slot, mask=slot >= 0, other=0)
        offset = tl.load(offsets + slot, mask=slot >= 0, other=0)
        tokens = first + tl.arange(0, TILE)
        here = tl.arange(0, TILE) < count
        rows = tl.load(token_ids + tokens, mask=here, other=0) * a_stride + offset
        for r in range(0, rank, RANKS):
            columns = r + tl.arange(0, RANKS)
            inside = here[:, None] & (columns < rank)[None, :]
            values = tl.load(a + rows[:, None] + columns[None, :], mask=inside, other=0.0).to(tl.float32)
            tl.store(h + tokens.to(tl.int64)[:, None] * max_rank + columns[None, :], values, mask=inside)
