"""Decode attention for sequences that share leading blocks: those are read once for all members of a group.

Owns the finding of groups, the decision whether they pay, and on a GPU the merging of both parts. Cascade inference
(FlashInfer, 2024) and Hydragen (arXiv:2402.05099): attention over the shared keys, with the members' queries as rows of
one tile, and attention over each sequence's own keys, merged by their log-sum-exp. A CPU's kernel merges nothing: each
row goes on where its tile ended.

Which groups there are is known on the host, so they are found per step from block tables in numpy. On the device only
their array changes: a CUDA graph captured with a cascade plan may be replayed with other groups, and with none. It
launches one kernel more than a plain decode graph, so it is a variant of its own, taken when `shared_groups` finds any.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from multiflora_kernels.attention.merge import merge_constants, weigh_slots
from multiflora_kernels.attention.plan import (
    CascadePlan,
    has_kernels,
    new_work_list,
    target_items,
    write_work_list,
)
from multiflora_kernels.attention.step import AttentionStep
from multiflora_kernels.attention.tiles import (
    AttentionHeads,
    Tile,
    long_tile,
    short_tile,
)
from multiflora_kernels.attention.triton import run_items
from multiflora_kernels.runtime.card import device_class
from multiflora_kernels.runtime.triton import KernelVariant, jit, tl

_MOST_GROUPS = 16
_DEEPEST_NESTING = 16


@dataclass(frozen=True)
class CascadeCosts:
    """What decides whether a group pays, for one layer on one device; `make gpu-contact` measures a GPU's rate and
    seconds.

    reread_rate: bytes/s at which plain decode reads a key again that another sequence has just read. The second cache
    level serves many of these reads, so this is above the memory's rate; too high a value only leaves gains unused.
    extra_seconds: what the additional part and the merging of all sequences cost. tile_rows: for how many rows (query,
    head) plain decode attends to a key in the time that a tile of any number of rows takes.
    """

    reread_rate: float = 8e12
    extra_seconds: float = 6e-6
    tile_rows: int = 1

    def tile_reads(self, heads: AttentionHeads) -> float:
        """How many sequences could read a key while a tile does, at least its own reading."""
        return max(1.0, self.tile_rows / heads.group)


GPU_COSTS = CascadeCosts()
CPU_COSTS = CascadeCosts(reread_rate=4e10, extra_seconds=1e-5, tile_rows=12)
"""Of one core with AVX-512: 9 to 14 rows, by what is rounded; keys again from the second cache level."""


def shared_groups(
    block_tables: npt.NDArray[np.int32],
    context_lens: npt.NDArray[np.integer],
    block_size: int,
    heads: AttentionHeads,
    costs: CascadeCosts = GPU_COSTS,
) -> npt.NDArray[np.int32] | None:
    """block_tables: [S, B], context_lens: [S] of a step in which every sequence has one query. None: plain is faster.

    Returns [3, S]: the leader of each sequence's group; a leader's members; keys that the group shares. A sequence in
    no group has 0 and 0. Groups are neighbours: order sequences by adapter and first block, so that those that share
    are. O(S log B), because equal ids at one place of two tables mean equal content at all places before it.
    """
    counts = np.asarray(context_lens, dtype=np.int64)
    if len(counts) < 2 or not (block_tables[1:, 0] == block_tables[:-1, 0]).any():
        return None
    common = _common_blocks(block_tables, np.maximum(counts - 1, 0) // block_size)
    block_bytes = 2 * heads.kv_heads * heads.entry_bytes * block_size
    reads = costs.tile_reads(heads)
    found = sorted(_best_groups(common, 0, len(counts), reads), key=partial(_saved_blocks, reads), reverse=True)
    found = found[:_MOST_GROUPS]
    saved = sum(_saved_blocks(reads, group) for group in found) * block_bytes
    # Each query's result is written and read once more by either part.
    merged = 16 * len(counts) * heads.q_heads * heads.head_size
    if (saved - merged) / costs.reread_rate <= costs.extra_seconds:
        return None
    groups = np.zeros((3, len(counts)), dtype=np.int32)
    groups[0] = np.arange(len(counts))
    for start, stop, blocks in found:
        groups[0, start:stop] = start
        groups[1, start] = stop - start
        groups[2, start:stop] = blocks * block_size
    return groups


_Group = tuple[int, int, int]
"""First sequence, one past the last, blocks in common."""


def _saved_blocks(reads: float, group: _Group) -> float:
    """reads: see `CascadeCosts.tile_reads`."""
    start, stop, blocks = group
    return (stop - start - reads) * blocks


def _common_blocks(tables: npt.NDArray[np.int32], full: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many leading blocks each table has in common with the next, at most what is full in both: [S-1]."""
    pairs = np.arange(len(tables) - 1)
    low, high = np.zeros_like(pairs), np.minimum(full[1:], full[:-1])
    while (low < high).any():
        middle = (low + high + 1) // 2
        place = np.maximum(middle - 1, 0)
        is_equal = tables[pairs, place] == tables[pairs + 1, place]
        low = np.where(is_equal, middle, low)
        high = np.where(is_equal, high, middle - 1)
    return low


def _best_groups(common: npt.NDArray[np.int64], start: int, stop: int, reads: float, depth: int = 0) -> list[_Group]:
    """The split of sequences start..stop into groups that saves the most blocks: all together, or apart where they
    have the least in common. None where none saves any."""
    if stop - start <= reads:
        return []
    pairs = common[start : stop - 1]
    least = int(pairs.min())
    together = [(start, stop, least)] if least else []
    if depth == _DEEPEST_NESTING or int(pairs.max()) == least:
        return together
    edges = [start, *(np.flatnonzero(pairs == least) + start + 1).tolist(), stop]
    apart = [group for first, end in pairwise(edges) for group in _best_groups(common, first, end, reads, depth + 1)]
    return max(together, apart, key=lambda groups: sum(_saved_blocks(reads, group) for group in groups))


def plan_cascade(
    query_starts: torch.Tensor, context_lens: torch.Tensor, groups: torch.Tensor, heads: AttentionHeads
) -> CascadePlan | None:
    """query_starts: [S+1], context_lens: [S], groups: [3, S], int32 on the device. Sequence s has its one query at row
    s, or none. Like `plan_attention`: once a step, inside the graph where there is one, without synchronisation, None
    where no kernel takes it."""
    return plan_parts(query_starts, context_lens, groups, heads) if has_kernels(query_starts.device, heads) else None


def plan_parts(
    query_starts: torch.Tensor, context_lens: torch.Tensor, groups: torch.Tensor, heads: AttentionHeads
) -> CascadePlan:
    """`plan_cascade` on whatever device kernels run."""
    device, sequences = context_lens.device, context_lens.shape[0]
    capability = device_class(device)[1]
    long, short = long_tile(heads, capability), short_tile(heads, capability)
    tiles = sequences // (long.rows // heads.group) + min(_MOST_GROUPS, sequences // 2)
    shared_target, own_target = target_items(long, heads, device), target_items(short, heads, device)
    plan = CascadePlan(
        heads,
        new_work_list(long, heads, tiles, shared_target, tiles + shared_target, long.rows // heads.group, device),
        new_work_list(short, heads, sequences, own_target, sequences + 2 * own_target, 1, device),
        groups,
        *(torch.empty((sequences, 2), dtype=torch.int32, device=device) for _ in range(2)),
    )
    arguments = (heads, query_starts, context_lens)
    write_work_list(plan.shared, *arguments, (1, sequences), part=1, groups=groups, records=plan.shared_records)
    write_work_list(plan.own, *arguments, (1, 1), part=2, groups=groups, records=plan.own_records)
    return plan


@jit
def _cascade_merge_kernel(
    out: tl.tensor,
    shared_partial: tl.tensor,
    shared_lse: tl.tensor,
    shared_records: tl.tensor,
    own_partial: tl.tensor,
    own_lse: tl.tensor,
    own_records: tl.tensor,
    groups: tl.tensor,
    context_lens: tl.tensor,
    slopes: tl.tensor,
    SLOPED: tl.constexpr,
    GROUP: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    HEAD_PADDED: tl.constexpr,
    SHARED_M: tl.constexpr,
    OWN_M: tl.constexpr,
    AT_ONCE: tl.constexpr,
) -> None:
    """Program (h, s): query head h of sequence s; the slots of its group's tile that holds it, then its own."""
    q_head = tl.program_id(0)
    sequence = tl.program_id(1)
    own_slots = tl.load(own_records + sequence * 2 + 1)
    if own_slots == 0:
        return
    head = q_head // GROUP
    acc = tl.zeros([HEAD_PADDED], dtype=tl.float32)
    highest = tl.full([], float("-inf"), dtype=tl.float32)
    total = tl.full([], 0.0, dtype=tl.float32)
    leader = tl.load(groups + sequence)
    slots = tl.load(shared_records + leader * 2 + 1)
    member = sequence - leader
    # A group's last tile has its first slots.
    members = tl.load(groups + tl.num_programs(1) + leader)
    TOKENS: tl.constexpr = SHARED_M // GROUP
    later = (members + TOKENS - 1) // TOKENS - 1 - member // TOKENS
    acc, highest, total = weigh_slots(
        acc, highest, total, shared_partial, shared_lse, tl.load(shared_records + leader * 2) + later * slots, slots,
        head * SHARED_M + member % TOKENS * GROUP + q_head % GROUP, KV_HEADS * SHARED_M, HEAD_SIZE, HEAD_PADDED,
        AT_ONCE,
    )  # fmt: skip
    if SLOPED:
        # In the shared tile a member stood right behind the shared keys, as many places further as it has there.
        stood = tl.load(groups + 2 * tl.num_programs(1) + sequence) + member % TOKENS
        distance = stood - (tl.load(context_lens + sequence) - 1)
        highest += tl.load(slopes + q_head) * 1.4426950408889634 * distance.to(tl.float32)
    acc, highest, total = weigh_slots(
        acc, highest, total, own_partial, own_lse, tl.load(own_records + sequence * 2), own_slots,
        head * OWN_M + q_head % GROUP, KV_HEADS * OWN_M, HEAD_SIZE, HEAD_PADDED, AT_ONCE,
    )  # fmt: skip
    result = acc / tl.where(total != 0.0, total, 1.0)
    dims = tl.arange(0, HEAD_PADDED)
    target = (sequence.to(tl.int64) * (KV_HEADS * GROUP) + q_head) * HEAD_SIZE
    tl.store(out + target + dims, result.to(out.dtype.element_ty), mask=dims < HEAD_SIZE)


def cascade_attention_triton(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, step: AttentionStep
) -> torch.Tensor:
    """q: [S, Hq, D]; step: with a `CascadePlan`. Semantics: `paged_attention` of one query for each sequence."""
    plan = step.plan
    assert isinstance(plan, CascadePlan), "a step with groups"
    assert step.window is None, "groups share keys that a window may hide"
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    for work in (plan.shared, plan.own):
        run_items(out, q, k_cache, v_cache, step, plan.heads, work)
    _cascade_merge_kernel[(plan.heads.q_heads, plan.groups.shape[1])](
        out, plan.shared.partial, plan.shared.partial_lse, plan.shared_records, plan.own.partial,
        plan.own.partial_lse, plan.own_records, plan.groups, step.context_lens, step.slopes,
        SLOPED=step.slopes is not None, num_warps=4, **_constants(plan.heads, plan.shared.tile, plan.own.tile),
    )  # fmt: skip
    return out


def _constants(heads: AttentionHeads, shared: Tile, own: Tile) -> dict[str, int]:
    constants = merge_constants(heads, own)
    return constants | {"OWN_M": constants.pop("BLOCK_M"), "SHARED_M": shared.rows}


def kernel_variants() -> Iterator[KernelVariant]:
    """For the ahead-of-time table."""
    parts = ("shared_partial", "shared_lse", "shared_records", "own_partial", "own_lse", "own_records")
    pointers = (*parts, "groups", "context_lens", "slopes")
    heads = AttentionHeads(32, 8, 128, torch.bfloat16)
    for has_slopes in (False, True):
        constants = _constants(heads, long_tile(heads, 90), short_tile(heads, 90)) | {"SLOPED": int(has_slopes)}
        yield KernelVariant(
            "cascade merge D=128 bf16" + " slopes" * has_slopes,
            _cascade_merge_kernel,
            {"out": "*bf16"}
            | {name: "*fp32" if name.endswith(("partial", "lse", "slopes")) else "*i32" for name in pointers}
            | dict.fromkeys(constants, "constexpr"),
            constants,
            options={"num_warps": 4},
        )
