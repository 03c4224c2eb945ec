"""How a step's attention is cut into items of work: on the device, from lengths that the host need not know.

Owns the cutting. Knows nothing of keys and values. The cutting depends on query_starts and context_lens
alone, so one plan serves all layers of a step, and one that is made inside a CUDA graph is made anew at each replay.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from multiflora_kernels.attention.tiles import (
    AttentionHeads,
    Tile,
    long_tile,
    short_tile,
)
from multiflora_kernels.runtime.card import device_class
from multiflora_kernels.runtime.triton import (
    KernelVariant,
    jit_with_varying,
    power_of_two,
    runs_kernels,
    tl,
)

ITEM_FIELDS = 8
MERGE_FIELDS = 4
LARGEST_HEAD = 256
_DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})
_PLAN_WARPS = 4
_ITEMS_AT_ONCE = 64
_LEAST_SEQUENCES = 256
"""Fewer are planned by the same compiled kernel, so that none is new when a batch is the largest so far."""


@dataclass(frozen=True)
class WorkList:
    """Work for one kernel, as device tensors of fixed shapes; `counts` says how much of them is filled.

    `new_work_list` allocates it, the plan kernel fills items, merges and counts, the attention kernel partial and
    partial_lse of the items that it was told to split.
    """

    tile: Tile
    target: int  # items beyond one for each tile of queries
    most_tokens: int  # of an item
    items: torch.Tensor  # [I, 8] int32: table row, first key, end key, slot or -1, first token, tokens, its position, 0
    merges: torch.Tensor  # [M, 4] int32: first slot, slots, first token, tokens
    counts: torch.Tensor  # [2] int32: items, merges
    partial: torch.Tensor  # [slots, Hk, rows, D] float32: normalised results of split items
    partial_lse: torch.Tensor  # [slots, Hk, rows] float32: log2 of the sum of powers of two behind each of them


@dataclass(frozen=True)
class AttentionPlan:
    """The work of one step for layers of one sliding window. Layers run one after another and share its scratch."""

    heads: AttentionHeads
    window: int | None
    lists: tuple[WorkList, ...]  # one for sequences of few queries, one for those of many, as far as the step has them


@dataclass(frozen=True)
class CascadePlan:
    """One decode step's work in two parts, for all layers without a sliding window. `plan_cascade` makes it."""

    heads: AttentionHeads
    shared: WorkList  # keys that groups share, with the queries of all members
    own: WorkList  # keys of each sequence alone
    groups: torch.Tensor  # [3, S] int32 on the device, see `shared_groups`
    shared_records: torch.Tensor  # [S, 2] int32: first slot and slots of each leader's results
    own_records: torch.Tensor  # [S, 2] int32: the same of each sequence's own


@dataclass(frozen=True)
class QueryBounds:
    """What the host knows of a step's sequences without asking the device; sequences without queries do not count.

    A CUDA graph captured under bounds may be replayed with all lengths that keep them: for decode graphs (1, 1).
    """

    shortest: int  # fewest queries of a sequence
    longest: int  # most of them


@jit_with_varying("sequences", "target", "fewest", "most", "window")
def _plan_kernel(
    items: tl.tensor,
    merges: tl.tensor,
    counts: tl.tensor,
    records: tl.tensor,
    query_starts: tl.tensor,
    context_lens: tl.tensor,
    groups: tl.tensor,
    sequences: tl.tensor,
    target: tl.tensor,
    fewest: tl.tensor,
    most: tl.tensor,
    window: tl.tensor,
    PART: tl.constexpr,
    WINDOWED: tl.constexpr,
    TOKENS: tl.constexpr,
    STEP: tl.constexpr,
    MIN_STEPS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_I: tl.constexpr,
) -> None:
    """Program s writes the items of sequence s, if it has `fewest` to `most` queries; they follow those before s.

    Every tile of TOKENS queries takes keys in steps of STEP. All steps, divided among `target` items, give the
    steps that an item should have; a sequence with more is split evenly. So there are at most tiles + target items,
    2 * target slots and target merges, whatever the lengths.
    PART 0: all keys. PART 1: keys that the group led by s shares, for one query of each member. PART 2: keys of s
    alone. The cascade's merge joins the parts; it finds each sequence's first slot and slots in records: [S, 2].
    """
    own = tl.program_id(0)
    rows = tl.arange(0, BLOCK_S)
    exists = rows < sequences
    shared = tl.zeros_like(rows)
    if PART == 1:
        queries = tl.load(groups + sequences + rows, mask=exists, other=0)
        lengths = tl.load(groups + 2 * sequences + rows, mask=exists, other=0)
    else:
        starts = tl.load(query_starts + rows, mask=exists, other=0)
        queries = tl.load(query_starts + rows + 1, mask=exists, other=0) - starts
        lengths = tl.load(context_lens + rows, mask=exists, other=0)
        if PART == 2:
            shared = tl.load(groups + 2 * sequences + rows, mask=exists, other=0)
    queries = tl.where((queries >= fewest) & (queries <= most), queries, 0)
    keys = tl.where(queries > 0, lengths - shared, 0)
    if WINDOWED:
        keys = tl.minimum(keys, tl.minimum(queries, TOKENS) + window - 1)
    tiles = (queries + TOKENS - 1) // TOKENS
    steps = (keys + STEP - 1) // STEP
    # One long sequence must not keep one program busy while the others idle: all items get about the same steps.
    item_steps = tl.maximum((tl.sum(tiles * steps, 0) + target - 1) // target, MIN_STEPS)
    splits = (steps + item_steps - 1) // item_steps
    before = rows < own
    made = tiles * splits
    # A part of a cascade is never final, even in one piece: its other part is still to be merged with it.
    is_split = (splits > 1) | ((splits > 0) & ((shared > 0) | (PART == 1)))
    # Every program sums what comes before it, so that programs need not wait for each other.
    first_item = tl.sum(tl.where(before, made, 0), 0)
    first_slot = tl.sum(tl.where(before & is_split, made, 0), 0)
    first_merge = tl.sum(tl.where(before & is_split, tiles, 0), 0)
    if own == 0:
        tl.store(counts, tl.sum(made, 0))
        tl.store(counts + 1, tl.sum(tl.where(is_split, tiles, 0), 0))

    is_own = rows == own
    num_queries = tl.sum(tl.where(is_own, queries, 0), 0)
    num_splits = tl.sum(tl.where(is_own, splits, 0), 0)
    length = tl.sum(tl.where(is_own, lengths, 0), 0)
    own_shared = tl.sum(tl.where(is_own, shared, 0), 0)
    has_slots = tl.sum(tl.where(is_own & is_split, 1, 0), 0) > 0
    num_tiles = (num_queries + TOKENS - 1) // TOKENS
    start = own
    if PART != 1:
        start = tl.load(query_starts + own)
    if PART > 0:
        tl.store(records + own * 2, first_slot)
        tl.store(records + own * 2 + 1, tl.where(has_slots, num_splits, 0))
    for chunk in tl.range(0, num_tiles * num_splits, BLOCK_I):
        item = chunk + tl.arange(0, BLOCK_I)
        is_item = item < num_tiles * num_splits
        # The last tile sees the most keys, so it comes first.
        tile = num_tiles - 1 - item // num_splits
        split = item % num_splits
        token = tile * TOKENS
        tokens = tl.minimum(num_queries - token, TOKENS)
        if PART == 1:
            position = tl.zeros_like(token) + length
            end = position
        else:
            position = length - num_queries + token
            end = position + tokens
        first = tl.zeros_like(end) + own_shared
        if WINDOWED:
            first = tl.maximum(position - window + 1, 0)
        piece = (((end - first + STEP - 1) // STEP + num_splits - 1) // num_splits) * STEP
        first = tl.minimum(first + split * piece, end)
        target_item = items + (first_item + item) * 8
        tl.store(target_item, own, mask=is_item)
        tl.store(target_item + 1, first, mask=is_item)
        tl.store(target_item + 2, tl.minimum(first + piece, end), mask=is_item)
        tl.store(target_item + 3, tl.where(has_slots, first_slot + item, -1), mask=is_item)
        tl.store(target_item + 4, start + token, mask=is_item)
        tl.store(target_item + 5, tokens, mask=is_item)
        tl.store(target_item + 6, position, mask=is_item)
        is_merge = is_item & (split == 0) & has_slots & (PART == 0)
        target_merge = merges + (first_merge + item // num_splits) * 4
        tl.store(target_merge, first_slot + item, mask=is_merge)
        tl.store(target_merge + 1, num_splits, mask=is_merge)
        tl.store(target_merge + 2, start + token, mask=is_merge)
        tl.store(target_merge + 3, tokens, mask=is_merge)


def plan_attention(
    query_starts: torch.Tensor,
    context_lens: torch.Tensor,
    num_tokens: int,
    heads: AttentionHeads,
    sliding_window: int | None = None,
    bounds: QueryBounds | None = None,
) -> AttentionPlan | None:
    """query_starts: [S+1], context_lens: [S] int32; num_tokens: at least query_starts[S].

    None where no kernel takes it (on a CPU, in float64, beyond LARGEST_HEAD): paged attention then goes without.

    Call it once a step for each sliding window of the model, inside the graph where there is one: a few launches of
    some microseconds, no synchronisation; tensors that a graph captures belong to its pool. Without bounds, sequences
    of all lengths are looked for.
    """
    if not has_kernels(query_starts.device, heads):
        return None
    return plan_work(query_starts, context_lens, num_tokens, heads, sliding_window, bounds)


def has_kernels(device: torch.device, heads: AttentionHeads) -> bool:
    """Whether a plan has a kernel to carry it out."""
    return runs_kernels(device) and heads.dtype in _DTYPES and heads.head_size <= LARGEST_HEAD


def plan_work(
    query_starts: torch.Tensor,
    context_lens: torch.Tensor,
    num_tokens: int,
    heads: AttentionHeads,
    sliding_window: int | None,
    bounds: QueryBounds | None,
) -> AttentionPlan:
    """`plan_attention` on whatever device kernels run."""
    bounds = bounds or QueryBounds(1, num_tokens)
    _, capability = device_class(query_starts.device)
    short, long = short_tile(heads, capability), long_tile(heads, capability)
    # A tile's rows are queries x heads of a group: so many queries fit into one short tile.
    border = short.rows // heads.group
    lists = []
    if bounds.shortest <= border:
        queries = (1, min(border, bounds.longest))
        lists.append(_work_list(short, query_starts, context_lens, num_tokens, heads, sliding_window, queries))
    if bounds.longest > border:
        queries = (border + 1, bounds.longest)
        lists.append(_work_list(long, query_starts, context_lens, num_tokens, heads, sliding_window, queries))
    return AttentionPlan(heads, sliding_window, tuple(lists))


def _work_list(
    tile: Tile,
    query_starts: torch.Tensor,
    context_lens: torch.Tensor,
    num_tokens: int,
    heads: AttentionHeads,
    window: int | None,
    queries: tuple[int, int],
) -> WorkList:
    """The work of the sequences with queries[0] to queries[1] queries."""
    tokens = tile.rows // heads.group
    # The lengths are the device's secret; these bounds hold for all that add up to num_tokens.
    most = min(context_lens.shape[0], num_tokens // queries[0])
    tiles = min(num_tokens // tokens + most, most * -(-queries[1] // tokens))
    target = target_items(tile, heads, query_starts.device)
    work = new_work_list(tile, heads, tiles, target, 2 * target, min(tokens, queries[1]), query_starts.device)
    write_work_list(work, heads, query_starts, context_lens, queries, window)
    return work


def target_items(tile: Tile, heads: AttentionHeads, device: torch.device) -> int:
    """As many items as, over all kv heads, are resident at once."""
    return max(1, device_class(device)[0] * tile.occupancy // heads.kv_heads)


def new_work_list(
    tile: Tile, heads: AttentionHeads, tiles: int, target: int, slots: int, most_tokens: int, device: torch.device
) -> WorkList:
    """Nothing written yet. tiles: at most so many; see `WorkList`."""
    return WorkList(
        tile,
        target,
        most_tokens,
        items=torch.empty((tiles + target, ITEM_FIELDS), dtype=torch.int32, device=device),
        merges=torch.empty((min(tiles, target), MERGE_FIELDS), dtype=torch.int32, device=device),
        counts=torch.empty(2, dtype=torch.int32, device=device),
        partial=torch.empty((slots, heads.kv_heads, tile.rows, heads.head_size), dtype=torch.float32, device=device),
        partial_lse=torch.empty((slots, heads.kv_heads, tile.rows), dtype=torch.float32, device=device),
    )


def write_work_list(
    work: WorkList,
    heads: AttentionHeads,
    query_starts: torch.Tensor,
    context_lens: torch.Tensor,
    queries: tuple[int, int],
    window: int | None = None,
    part: int = 0,
    groups: torch.Tensor | None = None,
    records: torch.Tensor | None = None,
) -> None:
    """Launches the planning; part, groups and records as in `_plan_kernel`."""
    tile, sequences = work.tile, context_lens.shape[0]
    _plan_kernel[(sequences,)](
        work.items, work.merges, work.counts, records, query_starts, context_lens, groups, sequences, work.target,
        *queries, window or 0, PART=part, WINDOWED=window is not None, TOKENS=tile.rows // heads.group, STEP=tile.step,
        MIN_STEPS=tile.min_steps, BLOCK_S=max(_LEAST_SEQUENCES, power_of_two(sequences)), BLOCK_I=_ITEMS_AT_ONCE,
        num_warps=_PLAN_WARPS,
    )  # fmt: skip


def kernel_variants() -> Iterator[KernelVariant]:
    """For the ahead-of-time table."""
    pointers = ("items", "merges", "counts", "records", "query_starts", "context_lens", "groups")
    numbers = dict.fromkeys(("sequences", "target", "fewest", "most", "window"), "i32")
    constants = ("PART", "WINDOWED", "TOKENS", "STEP", "MIN_STEPS", "BLOCK_S", "BLOCK_I")
    for part, is_windowed, sequences in ((0, False, 256), (0, True, 1024), (1, False, 256), (2, False, 256)):
        yield KernelVariant(
            f"plan S={sequences} part={part}" + " window" * is_windowed,
            _plan_kernel,
            dict.fromkeys(pointers, "*i32") | numbers | dict.fromkeys(constants, "constexpr"),
            dict(zip(constants, (part, is_windowed, 4, 64, 2, sequences, _ITEMS_AT_ONCE), strict=True)),
            unaligned=frozenset(numbers),
            options={"num_warps": _PLAN_WARPS},
        )
