"""Random choice and log-probabilities in Triton: one program does one row in a few passes, without sorting it.

What each op means is said in ops.py. The passes, for a row that is cut by top-k or top-p:

1. The largest logit of each of BLOCK groups (a group is every BLOCK-th token). Of the k largest tokens' weights the
   smallest is at least the k-th largest of the groups'; and if groups above a weight hold enough of the mass, then so
   do the tokens above it. Either bounds the cut from below.
2. The few tokens above that bound are copied to a list, in id order. A flat row makes a long list, and a slow one.
3. The cut itself is found in the list by bisection over the bits of a float32: exact, ties stay together.
4. The draw is the inverse of the list's cumulative distribution.

All sums have a fixed order: the same row gives the same token, whatever stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from multiflora_kernels.runtime.triton import (
    KernelVariant,
    jit,
    jit_with_varying,
    power_of_two,
    tl,
)

_BLOCK = 4096
_SAMPLE_WARPS = 16
_LOGPROBS_BLOCK = 2048
_LOGPROBS_WARPS = 8


@jit
def _group_maxima(logits: tl.tensor, VOCAB: tl.constexpr, BLOCK: tl.constexpr) -> tl.tensor:
    """[BLOCK]: the largest of every BLOCK-th logit; a NaN counts as infinite."""
    groups = tl.full((BLOCK,), -float("inf"), tl.float32)
    for start in tl.range(0, VOCAB, BLOCK, loop_unroll_factor=4):
        columns = start + tl.arange(0, BLOCK)
        x = tl.load(logits + columns, mask=columns < VOCAB, other=-float("inf")).to(tl.float32)
        groups = tl.maximum(groups, tl.where(x == x, x, float("inf")))
    return groups


@jit
def _weigh(x: tl.tensor, best: tl.tensor, temperature: tl.tensor) -> tl.tensor:
    return tl.exp((x - best) / temperature)


@jit
def _kept(
    source: tl.tensor,
    start: tl.tensor,
    count: tl.tensor,
    floor: tl.tensor,
    best: tl.tensor,
    temperature: tl.tensor,
    FROM_LOGITS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """BLOCK weights from `start` on, zero below `floor` and from `count` on."""
    columns = start + tl.arange(0, BLOCK)
    if FROM_LOGITS:
        x = tl.load(source + columns, mask=columns < count, other=-float("inf")).to(tl.float32)
        weights = _weigh(x, best, temperature)
    else:
        weights = tl.load(source + columns, mask=columns < count, other=0.0)
    return tl.where(weights >= floor, weights, 0.0)


@jit
def _above(weights: tl.tensor, floor: tl.tensor, OF_MASS: tl.constexpr) -> tl.tensor:
    """The mass, or the number, of the weights from `floor` up."""
    if OF_MASS:
        amounts = tl.where(weights >= floor, weights, 0.0)
    else:
        amounts = tl.where(weights >= floor, 1.0, 0.0)
    return tl.sum(amounts, axis=0).to(tl.float64)


@jit
def _highest_floor(
    first: tl.tensor,
    weights: tl.tensor,
    count: tl.tensor,
    target: tl.tensor,
    OF_MASS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """The highest float32 from which up there is at least `target`, 0 if there is none; it is one of the weights.

    Bits of floats from 0 to 1 are ordered like integers. first: the first BLOCK of `count` weights, -1 beyond them.
    """
    low = tl.full((), 0, tl.int32)
    high = tl.full((), 0x3F800001, tl.int32)  # just above 1
    # `first` stays in registers through all halvings; a list is rarely longer than it.
    for _ in range(30):  # halvings, until they are neighbours
        middle = (low + high) // 2
        floor = middle.to(tl.float32, bitcast=True)
        amount = _above(first, floor, OF_MASS)
        for start in range(BLOCK, count, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            block = tl.load(weights + columns, mask=columns < count, other=-1.0)
            amount += _above(block, floor, OF_MASS)
        low = tl.where(amount >= target, middle, low)
        high = tl.where(amount >= target, high, middle)
    return low.to(tl.float32, bitcast=True)


@jit
def _mass(
    source: tl.tensor,
    count: tl.tensor,
    floor: tl.tensor,
    best: tl.tensor,
    temperature: tl.tensor,
    FROM_LOGITS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    total = tl.full((), 0.0, tl.float64)
    for start in range(0, count, BLOCK):
        kept = _kept(source, start, count, floor, best, temperature, FROM_LOGITS, BLOCK)
        total += tl.sum(kept, axis=0).to(tl.float64)
    return total


@jit
def _first_beyond(masses: tl.tensor, target: tl.tensor, SIZE: tl.constexpr) -> tl.tensor:
    """The first place that has mass and where the masses so far exceed `target`; rounding may leave none: the last."""
    place = tl.arange(0, SIZE)
    beyond = (tl.cumsum(masses, axis=0) > target) & (masses > 0)
    last = tl.max(tl.where(masses > 0, place, 0), axis=0)
    return tl.minimum(tl.min(tl.where(beyond, place, SIZE), axis=0), last)


@jit
def _drawn(
    source: tl.tensor,
    count: tl.tensor,
    floor: tl.tensor,
    best: tl.tensor,
    temperature: tl.tensor,
    uniform: tl.tensor,
    FROM_LOGITS: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
) -> tl.tensor:
    """The place drawn from `count` weights: first which BLOCK of them, then which in it."""
    part = tl.arange(0, PARTS)
    masses = tl.zeros((PARTS,), tl.float64)
    for start in range(0, count, BLOCK):
        kept = _kept(source, start, count, floor, best, temperature, FROM_LOGITS, BLOCK)
        masses = tl.where(part == start // BLOCK, tl.sum(kept, axis=0).to(tl.float64), masses)
    target = uniform * tl.sum(masses, axis=0)
    chosen = _first_beyond(masses, target, PARTS)
    rest = target - tl.sum(tl.where(part < chosen, masses, 0.0), axis=0)
    kept = _kept(source, chosen * BLOCK, count, floor, best, temperature, FROM_LOGITS, BLOCK)
    return chosen * BLOCK + _first_beyond(kept.to(tl.float64), rest, BLOCK)


@jit
def _copy_above(
    values: tl.tensor,
    ids: tl.tensor,
    logits: tl.tensor,
    floor: tl.tensor,
    best: tl.tensor,
    temperature: tl.tensor,
    AS_WEIGHTS: tl.constexpr,
    VOCAB: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """Writes the tokens whose weight is at least `floor` to a list in id order, as weights or as logits.

    Returns how many. They can be read by all threads afterwards.
    """
    taken = tl.full((), 0, tl.int32)
    for start in range(0, VOCAB, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        x = tl.load(logits + columns, mask=columns < VOCAB, other=-float("inf")).to(tl.float32)
        weights = _weigh(x, best, temperature)
        keeps = ((weights >= floor) & (columns < VOCAB)).to(tl.int32)
        found = tl.sum(keeps, axis=0)
        # Of most blocks nothing is kept: those are neither counted through nor written.
        if found > 0:
            place = taken + tl.cumsum(keeps, axis=0) - 1
            tl.store(values + place, weights if AS_WEIGHTS else x, mask=keeps > 0)
            tl.store(ids + place, columns, mask=keeps > 0)
            taken += found
    # Threads read the list at other places than they wrote.
    tl.debug_barrier()
    return taken


@jit
def _sample_kernel(
    tokens: tl.tensor,
    weights: tl.tensor,
    ids: tl.tensor,
    logits: tl.tensor,
    row_stride: tl.tensor,
    rows: tl.tensor,
    temperatures: tl.tensor,
    top_ks: tl.tensor,
    top_ps: tl.tensor,
    min_ps: tl.tensor,
    uniforms: tl.tensor,
    VOCAB: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
) -> None:
    """Program r chooses the token of row rows[r]. weights, ids: [R, VOCAB], room for the lists."""
    row = tl.program_id(0).to(tl.int64)
    logits += tl.load(rows + row) * row_stride
    weights += row * VOCAB
    ids += row * VOCAB
    temperature = tl.load(temperatures + row)
    top_k = tl.load(top_ks + row)
    top_p = tl.load(top_ps + row).to(tl.float64)
    min_p = tl.load(min_ps + row)
    uniform = tl.load(uniforms + row)
    groups = _group_maxima(logits, VOCAB, BLOCK)
    best = tl.max(groups, axis=0)
    # -1 stays where the largest logit is not finite: the row fails alone, as `greedy` says.
    token = tl.full((), -1, tl.int64)
    if (best > -float("inf")) & (best < float("inf")):
        if (top_k < VOCAB) | (top_p < 1):
            leaders = _weigh(groups, best, temperature)
            total = tl.full((), 0.0, tl.float64)
            bound = tl.full((), 0.0, tl.float32)
            if top_k < VOCAB:
                bound = _highest_floor(leaders, weights, 0, top_k.to(tl.float64), False, BLOCK)
            else:
                total = _mass(logits, VOCAB, min_p, best, temperature, True, BLOCK)
                # The margin covers what the order of summation changes.
                bound = _highest_floor(leaders, weights, 0, top_p * total * (1 + 1e-6), True, BLOCK)
            bound = tl.maximum(bound, min_p)
            count = _copy_above(weights, ids, logits, bound, best, temperature, True, VOCAB, BLOCK)
            place = tl.arange(0, BLOCK)
            first = tl.load(weights + place, mask=place < count, other=-1.0)
            floor = min_p
            if top_k < VOCAB:
                floor = tl.maximum(_highest_floor(first, weights, count, top_k.to(tl.float64), False, BLOCK), floor)
                total = _mass(weights, count, floor, best, temperature, False, BLOCK)
            if top_p < 1:
                floor = tl.maximum(_highest_floor(first, weights, count, top_p * total, True, BLOCK), floor)
            drawn = _drawn(weights, count, floor, best, temperature, uniform, False, BLOCK, PARTS)
            token = tl.load(ids + drawn).to(tl.int64)
        else:
            drawn = _drawn(logits, VOCAB, min_p, best, temperature, uniform, True, BLOCK, PARTS)
            token = drawn.to(tl.int64)
    tl.store(tokens + row, token)


def sample_triton(
    logits: Tensor, rows: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, uniform: Tensor
) -> Tensor:
    """As `ops.sample`, in one launch."""
    count, vocab = len(rows), logits.shape[1]
    assert logits.stride(1) == 1, "rows are contiguous"
    tokens = torch.empty(count, dtype=torch.int64, device=logits.device)
    weights = torch.empty((count, vocab), dtype=torch.float32, device=logits.device)
    ids = torch.empty((count, vocab), dtype=torch.int32, device=logits.device)
    if count:
        _sample_kernel[(count,)](
            tokens, weights, ids, logits, logits.stride(0), rows, temperature, top_k, top_p, min_p, uniform,
            VOCAB=vocab, **_blocks(vocab), num_warps=_SAMPLE_WARPS,
        )  # fmt: skip
    return tokens


def _blocks(vocab: int) -> dict[str, int]:
    return {"BLOCK": _BLOCK, "PARTS": max(2, power_of_two(-(-vocab // _BLOCK)))}


@jit
def _next_best(
    values: tl.tensor, place: tl.tensor, inside: tl.tensor, last: tl.tensor, last_place: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    """The largest of the values that come after (last, last_place) in the order from large to small, then by place."""
    later = inside & ((values < last) | ((values == last) & (place > last_place)))
    best = tl.max(tl.where(later, values, -float("inf")), axis=0)
    return best, tl.min(tl.where(later & (values == best), place, 0x7FFFFFFF), axis=0)


@jit_with_varying("num_top")
def _logprobs_kernel(
    chosen: tl.tensor,
    ranks: tl.tensor,
    top: tl.tensor,
    top_ids: tl.tensor,
    values: tl.tensor,
    ids: tl.tensor,
    logits: tl.tensor,
    row_stride: tl.tensor,
    token_ids: tl.tensor,
    num_top: tl.tensor,
    VOCAB: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Program l does row l. top, top_ids: [L, num_top]; values, ids: [L, VOCAB], room for the lists."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * row_stride
    values += row * VOCAB
    ids += row * VOCAB
    own = tl.load(logits + tl.load(token_ids + row)).to(tl.float32)
    groups = _group_maxima(logits, VOCAB, BLOCK)
    best = tl.max(groups, axis=0)
    total = tl.full((), 0.0, tl.float32)
    larger = tl.full((), 0, tl.int32)
    for start in range(0, VOCAB, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        x = tl.load(logits + columns, mask=columns < VOCAB, other=-float("inf")).to(tl.float32)
        total += tl.sum(tl.exp(x - best), axis=0)
        larger += tl.sum((x > own).to(tl.int32), axis=0)
    # Ranks count strictly larger logits, so a greedy token has rank 1 also among ties.
    norm = best + tl.log(total)
    tl.store(chosen + row, own - norm)
    tl.store(ranks + row, (larger + 1).to(tl.int64))
    if num_top > 0:
        leaders = tl.exp(groups - best)
        bound = _highest_floor(leaders, values, 0, tl.cast(num_top, tl.float64), False, BLOCK)
        count = _copy_above(values, ids, logits, bound, best, 1.0, False, VOCAB, BLOCK)
        last = tl.full((), float("inf"), tl.float32)
        last_place = tl.full((), -1, tl.int32)
        for index in range(num_top):
            next_value = tl.full((), -float("inf"), tl.float32)
            next_place = tl.full((), 0x7FFFFFFF, tl.int32)
            for start in range(0, count, BLOCK):
                place = start + tl.arange(0, BLOCK)
                x = tl.load(values + place, mask=place < count, other=-float("inf"))
                value, found = _next_best(x, place, place < count, last, last_place)
                better = (value > next_value) | ((value == next_value) & (found < next_place))
                next_value = tl.where(better, value, next_value)
                next_place = tl.where(better, found, next_place)
            last = next_value
            last_place = next_place
            tl.store(top + row * num_top + index, last - norm)
            token = tl.load(ids + last_place, mask=last_place < count, other=0)
            tl.store(top_ids + row * num_top + index, token.to(tl.int64))


def logprobs_triton(logits: Tensor, token_ids: Tensor, num_top: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(chosen, ranks, top_ids, top) of `ops.logprobs`, in one launch."""
    rows, vocab = logits.shape
    assert logits.stride(1) == 1, "rows are contiguous"
    device = logits.device
    chosen = torch.empty(rows, dtype=torch.float32, device=device)
    ranks = torch.empty(rows, dtype=torch.int64, device=device)
    top = torch.empty((rows, num_top), dtype=torch.float32, device=device)
    top_ids = torch.empty((rows, num_top), dtype=torch.int64, device=device)
    room = vocab if num_top else 0
    values = torch.empty((rows, room), dtype=torch.float32, device=device)
    ids = torch.empty((rows, room), dtype=torch.int32, device=device)
    if rows:
        _logprobs_kernel[(rows,)](
            chosen, ranks, top, top_ids, values, ids, logits, logits.stride(0), token_ids, num_top,
            VOCAB=vocab, BLOCK=_LOGPROBS_BLOCK, num_warps=_LOGPROBS_WARPS,
        )  # fmt: skip
    return chosen, ranks, top_ids, top


def kernel_variants() -> Iterator[KernelVariant]:
    """For the ahead-of-time table, at Llama 3's vocabulary."""
    vocab = 128256
    for dtype in ("fp32", "bf16"):
        yield KernelVariant(
            f"sample {dtype}",
            _sample_kernel,
            {"tokens": "*i64", "weights": "*fp32", "ids": "*i32", "logits": f"*{dtype}", "row_stride": "i32"}
            | {
                "rows": "*i64",
                "temperatures": "*fp32",
                "top_ks": "*i64",
                "top_ps": "*fp32",
                "min_ps": "*fp32",
                "uniforms": "*fp64",
            }
            | dict.fromkeys(("VOCAB", "BLOCK", "PARTS"), "constexpr"),
            {"VOCAB": vocab} | _blocks(vocab),
            options={"num_warps": _SAMPLE_WARPS},
        )
        yield KernelVariant(
            f"logprobs {dtype}",
            _logprobs_kernel,
            {"chosen": "*fp32", "ranks": "*i64", "top": "*fp32", "top_ids": "*i64", "values": "*fp32", "ids": "*i32"}
            | {"logits": f"*{dtype}", "row_stride": "i32", "token_ids": "*i64", "num_top": "i32"}
            | dict.fromkeys(("VOCAB", "BLOCK"), "constexpr"),
            {"VOCAB": vocab, "BLOCK": _LOGPROBS_BLOCK},
            unaligned=frozenset({"num_top"}),
            options={"num_warps": _LOGPROBS_WARPS},
        )
