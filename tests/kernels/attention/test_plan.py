"""The plan of attention: each visible pair of query and key is in one item, and each split item in one merge."""

from __future__ import annotations

import pytest
import torch
from tests.kernels.attention.cases import make

from multiflora_kernels.attention.plan import QueryBounds, plan_attention, plan_work
from multiflora_kernels.attention.tiles import AttentionHeads


@pytest.mark.parametrize("window", [None, 1, 37, 300])
@pytest.mark.parametrize("seed", range(3))
def test_plan_takes_every_visible_pair_once(kernel_device, window, seed):
    generator = torch.Generator().manual_seed(seed)
    longest = [1, 40, 700][seed]
    queries = torch.randint(0, longest + 1, (7,), generator=generator)
    lengths = (queries + torch.randint(0, 900, (7,), generator=generator)) * (queries > 0)
    starts = torch.tensor([0, *queries.cumsum(0).tolist()]).int()
    heads = AttentionHeads(8, 2, 32, torch.float16)
    arguments = (starts.to(kernel_device), lengths.int().to(kernel_device), int(starts[-1]), heads, window)
    plan = plan_work(*arguments, QueryBounds(1, max(1, int(queries.max()))))
    position = (
        (lengths - queries).repeat_interleave(queries)
        + torch.arange(starts[-1])
        - starts[:-1].repeat_interleave(queries)
    )
    keys = torch.arange(int(lengths.max()))
    seen = keys <= position[:, None]
    if window is not None:
        seen &= keys > position[:, None] - window
    taken = torch.zeros_like(seen, dtype=torch.int32)
    for work in plan.lists:
        num_items, num_merges = work.counts.tolist()
        assert num_items <= len(work.items)
        assert num_merges <= len(work.merges)
        used = [False] * len(work.partial)
        for _, first, end, slot, token, tokens, place, _ in work.items[:num_items].tolist():
            assert place == position[token]
            assert tokens <= work.most_tokens
            taken[token : token + tokens, first:end] += seen[token : token + tokens, first:end].int()
            if slot >= 0:
                assert not used[slot]
                used[slot] = True
        for first, slots, _, _ in work.merges[:num_merges].tolist():
            assert all(used[first : first + slots])
            used[first : first + slots] = [False] * slots
        assert not any(used)
    assert torch.equal(taken, seen.int())


def test_a_cpu_needs_no_plan():
    case = make([5], [1])
    heads = AttentionHeads(4, 2, 32, torch.float32)
    assert plan_attention(case.arguments[2], case.arguments[3], 1, heads) is None
