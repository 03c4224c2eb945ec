"""Pairs of tokens and experts are sorted as torch sorts them, and each is in one tile of its expert."""

from __future__ import annotations

import pytest
import torch

from multiflora_kernels.moe.tiles import tile_experts


@pytest.mark.parametrize(
    ("tokens", "top_k", "num_experts", "rows"),
    [(1, 1, 3, 16), (1, 8, 64, 16), (5, 2, 64, 16), (3, 3, 3, 16), (40, 2, 5, 16), (90, 8, 8, 64), (600, 2, 3, 128)],
)
def test_tiles(kernel_device, tokens, top_k, num_experts, rows):
    experts = torch.rand(tokens, num_experts).topk(top_k).indices
    check(experts, num_experts, rows, kernel_device)


@pytest.mark.parametrize("tokens", [1, 16, 17, 33])
def test_all_tokens_on_one_expert(kernel_device, tokens):
    """The last, and one in the middle: all others have no pairs."""
    for expert in (2, 5):
        check(torch.full((tokens, 1), expert), 6, 16, kernel_device)


def check(experts: torch.Tensor, num_experts: int, rows: int, device: torch.device) -> None:
    tiles = tile_experts(experts.to(device), num_experts, rows)
    pairs = experts.flatten()
    assert torch.equal(tiles.order.cpu().long(), pairs.argsort(stable=True))
    places = []
    for first, count, expert, _ in tiles.table.tolist():
        assert 0 <= count <= rows
        places += range(first, first + count)
        assert all(pairs[tiles.order[place]] == expert for place in range(first, first + count))
    assert sorted(places) == list(range(len(pairs)))
    full = sum(-(-count // rows) for count in pairs.bincount().tolist())
    assert sum(count > 0 for count in tiles.table[:, 1].tolist()) == full, "no more tiles than pairs fill"
    assert tiles.slots <= num_experts + len(pairs) // rows


def test_few_pairs_have_few_slots(kernel_device):
    """A decode step has no program for each of many experts."""
    experts = torch.rand(2, 64).topk(4).indices.to(kernel_device)
    assert tile_experts(experts, 64, 16).slots == 8
