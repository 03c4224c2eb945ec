"""The sampling ops that touch each logit once, in Triton: greedy choice, edits of single logits, bitmasks, feedback.

What each op means is said in ops.py. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
_ENTRIES = 128


@jit
def _greedy_parts_kernel(
    best: tl.tensor,
    ids: tl.tensor,
    logits: tl.tensor,
    row_stride: tl.tensor,
    parts: tl.tensor,
    VOCAB: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """best, ids: [L, parts]. Program (l, p) finds the largest of BLOCK logits of row l; a NaN counts as infinite."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    columns = part * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits + row * row_stride + columns, mask=columns < VOCAB, other=-float("inf")).to(tl.float32)
    x = tl.where(x == x, x, float("inf"))
    value, place = tl.max(x, axis=0, return_indices=True, return_indices_tie_break_left=True)
    tl.store(best + row * parts + part, value)
    tl.store(ids + row * parts + part, part * BLOCK + place)


@jit
def _greedy_kernel(tokens: tl.tensor, best: tl.tensor, ids: tl.tensor, parts: tl.tensor, PARTS: tl.constexpr) -> None:
    """Program l takes the first of row l's parts that is largest."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, PARTS)
    x = tl.load(best + row * parts + part, mask=part < parts, other=-float("inf"))
    # Parts stand in id order, so the first of equal ones has the lowest id.
    value, place = tl.max(x, axis=0, return_indices=True, return_indices_tie_break_left=True)
    token = tl.load(ids + row * parts + place).to(tl.int64)
    usable = (value > -float("inf")) & (value < float("inf"))
    tl.store(tokens + row, tl.where(usable, token, -1))


def greedy_triton(logits: Tensor) -> Tensor:
    """As `ops.greedy`: two launches, so that one row keeps the whole device busy, too."""
    rows, vocab = logits.shape
    parts = -(-vocab // _BLOCK)
    best = torch.empty((rows, parts), dtype=torch.float32, device=logits.device)
    ids = torch.empty((rows, parts), dtype=torch.int32, device=logits.device)
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    assert logits.stride(1) == 1, "rows are contiguous"
    if rows:
        _greedy_parts_kernel[(rows, parts)](
            best, ids, logits, logits.stride(0), parts, VOCAB=vocab, BLOCK=_BLOCK, num_warps=4
        )
        _greedy_kernel[(rows,)](tokens, best, ids, parts, PARTS=max(2, power_of_two(parts)), num_warps=1)
    return tokens


@jit
def _penalize_seen_kernel(
    logits: tl.tensor,
    rows: tl.tensor,
    seen: tl.tensor,
    seen_rows: tl.tensor,
    repetition: tl.tensor,
    frequency: tl.tensor,
    presence: tl.tensor,
    row_stride: tl.tensor,
    VOCAB: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Program (r, p) does BLOCK tokens of row r; logits of tokens that were not seen are not even read."""
    entry = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    state = tl.load(seen + tl.load(seen_rows + entry) * VOCAB + columns, mask=columns < VOCAB, other=0)
    is_seen = state != 0
    place = logits + tl.load(rows + entry) * row_stride + columns
    x = tl.load(place, mask=is_seen, other=0.0)
    count = (state >> 1).to(tl.float32)
    repeated = tl.load(repetition + entry)
    x = tl.where(x > 0, x / repeated, x * repeated)
    x -= tl.load(frequency + entry) * count
    x -= tl.where(count > 0, tl.load(presence + entry), 0.0)
    tl.store(place, x, mask=is_seen)


def penalize_seen_triton_(
    logits: Tensor,
    rows: Tensor,
    seen: Tensor,
    seen_rows: Tensor,
    repetition: Tensor,
    frequency: Tensor,
    presence: Tensor,
) -> None:
    """As `ops.penalize_seen_`, in one launch."""
    vocab = logits.shape[1]
    assert seen.shape[1] == vocab, "a count for each token"
    if len(rows):
        _penalize_seen_kernel[(len(rows), -(-vocab // _BLOCK))](
            logits, rows, seen, seen_rows, repetition, frequency, presence, logits.stride(0),
            VOCAB=vocab, BLOCK=_BLOCK, num_warps=4,
        )  # fmt: skip


@jit_with_varying("entries")
def _count_seen_kernel(
    seen: tl.tensor,
    seen_rows: tl.tensor,
    tokens: tl.tensor,
    entries: tl.tensor,
    VOCAB: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """A program does BLOCK tokens; no two of them are in one row."""
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = entry < entries
    token = tl.load(tokens + entry, mask=inside, other=-1)
    place = seen + tl.load(seen_rows + entry, mask=inside, other=0) * VOCAB + token
    chosen = token >= 0
    tl.store(place, tl.load(place, mask=chosen, other=0) + 2, mask=chosen)


def count_seen_triton_(seen: Tensor, seen_rows: Tensor, tokens: Tensor) -> None:
    """As `ops.count_seen_`, in one launch."""
    entries = len(tokens)
    if entries:
        _count_seen_kernel[(-(-entries // _ENTRIES),)](
            seen, seen_rows, tokens, entries, VOCAB=seen.shape[1], BLOCK=_ENTRIES, num_warps=4
        )


@jit_with_varying("entries")
def _bias_kernel(
    logits: tl.tensor,
    rows: tl.tensor,
    ids: tl.tensor,
    values: tl.tensor,
    entries: tl.tensor,
    row_stride: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """A program does BLOCK entries; no two entries are about the same logit."""
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = entry < entries
    place = logits + tl.load(rows + entry, mask=inside, other=0) * row_stride + tl.load(ids + entry, inside, other=0)
    x = tl.load(place, mask=inside, other=0.0) + tl.load(values + entry, mask=inside, other=0.0)
    tl.store(place, x, mask=inside)


def bias_triton_(logits: Tensor, rows: Tensor, ids: Tensor, values: Tensor) -> None:
    """As `ops.bias_`, in one launch."""
    entries = len(rows)
    if entries:
        _bias_kernel[(-(-entries // _ENTRIES),)](
            logits, rows, ids, values, entries, logits.stride(0), BLOCK=_ENTRIES, num_warps=4
        )


@jit
def _bitmask_kernel(
    logits: tl.tensor,
    rows: tl.tensor,
    bitmask: tl.tensor,
    row_stride: tl.tensor,
    mask_stride: tl.tensor,
    VOCAB: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Program (r, p) excludes what the bits of row r say of BLOCK tokens; logits that stay are not even read."""
    mask_row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < VOCAB
    words = tl.load(bitmask + mask_row * mask_stride + columns // 32, mask=inside, other=0)
    excluded = inside & (((words >> (columns % 32)) & 1) == 0)
    row = tl.load(rows + mask_row)
    tl.store(logits + row * row_stride + columns, tl.full((BLOCK,), -float("inf"), tl.float32), mask=excluded)


def apply_bitmask_triton_(logits: Tensor, rows: Tensor, bitmask: Tensor) -> None:
    """As `ops.apply_bitmask_`, in one launch."""
    vocab = logits.shape[1]
    if len(rows):
        _bitmask_kernel[(len(rows), -(-vocab // _BLOCK))](
            logits, rows, bitmask, logits.stride(0), bitmask.stride(0), VOCAB=vocab, BLOCK=_BLOCK, num_warps=4
        )


@jit_with_varying("tokens")
def _gather_tokens_kernel(
    out: tl.tensor,
    token_ids: tl.tensor,
    sources: tl.tensor,
    last_tokens: tl.tensor,
    tokens: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """A program does BLOCK tokens."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < tokens
    source = tl.load(sources + place, mask=inside, other=-1)
    fed_back = tl.load(last_tokens + source, mask=source >= 0, other=0)
    known = tl.load(token_ids + place, mask=inside, other=0)
    tl.store(out + place, tl.where(source >= 0, tl.maximum(fed_back, 0), known), mask=inside)


def gather_tokens_triton(token_ids: Tensor, sources: Tensor, last_tokens: Tensor) -> Tensor:
    """As `ops.gather_tokens`, in one launch."""
    out = torch.empty_like(token_ids)
    tokens = len(token_ids)
    if tokens:
        _gather_tokens_kernel[(-(-tokens // _ENTRIES),)](
            out, token_ids, sources, last_tokens, tokens, BLOCK=_ENTRIES, num_warps=4
        )
    return out


def kernel_variants() -> Iterator[KernelVariant]:
    """For the ahead-of-time table, at Llama 3's vocabulary."""
    vocab = 128256
    block = {"VOCAB": vocab, "BLOCK": _BLOCK}
    constexprs = dict.fromkeys(block, "constexpr")
    for dtype in ("fp32", "bf16"):
        yield KernelVariant(
            f"greedy parts {dtype}",
            _greedy_parts_kernel,
            {"best": "*fp32", "ids": "*i32", "logits": f"*{dtype}", "row_stride": "i32", "parts": "i32"} | constexprs,
            block,
            options={"num_warps": 4},
        )
    yield KernelVariant(
        "greedy",
        _greedy_kernel,
        {"tokens": "*i64", "best": "*fp32", "ids": "*i32", "parts": "i32", "PARTS": "constexpr"},
        {"PARTS": 32},
        options={"num_warps": 1},
    )
    yield KernelVariant(
        "bitmask",
        _bitmask_kernel,
        {"logits": "*fp32", "rows": "*i64", "bitmask": "*i32", "row_stride": "i32", "mask_stride": "i32"} | constexprs,
        block,
        options={"num_warps": 4},
    )
    yield KernelVariant(
        "penalize seen",
        _penalize_seen_kernel,
        {"logits": "*fp32", "rows": "*i64", "seen": "*i32", "seen_rows": "*i64"}
        | dict.fromkeys(("repetition", "frequency", "presence"), "*fp32")
        | {"row_stride": "i32"}
        | constexprs,
        block,
        options={"num_warps": 4},
    )
    entries = {"BLOCK": _ENTRIES}
    forms: dict[str, tuple[Any, dict[str, str], dict[str, int]]] = {
        "count seen": (_count_seen_kernel, {"seen": "*i32", "seen_rows": "*i64", "tokens": "*i64", "entries": "i32"}
                       | {"VOCAB": "constexpr"}, {"VOCAB": vocab}),
        "bias": (_bias_kernel, {"logits": "*fp32", "rows": "*i64", "ids": "*i64", "values": "*fp32"}
                 | {"entries": "i32", "row_stride": "i32"}, {}),
        "gather tokens": (_gather_tokens_kernel, {"out": "*i64", "token_ids": "*i64", "sources": "*i32"}
                          | {"last_tokens": "*i64", "tokens": "i32"}, {}),
    }  # fmt: skip
    for name, (kernel, signature, constants) in forms.items():
        yield KernelVariant(
            name,
            kernel,
            signature | {"BLOCK": "constexpr"},
            constants | entries,
            unaligned=frozenset({"entries"} if name != "gather tokens" else {"tokens"}),
            options={"num_warps": 4},
        )
