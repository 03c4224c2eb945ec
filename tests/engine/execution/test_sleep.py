"""Weights that sleep take no memory, and wake as they were, under every view."""

from __future__ import annotations

import torch

from multiflora_engine.execution.sleep import SleepingWeights


def test_weights_leave_their_memory_and_come_back_under_all_their_views() -> None:
    stacked = torch.randn(6, 5)
    views = [stacked[:2], stacked[2:]]
    alone = torch.randn(7, dtype=torch.float64).to(torch.bfloat16)
    before = [tensor.clone() for tensor in (*views, alone)]
    sleeping = SleepingWeights([*views, alone])
    assert sleeping.num_bytes == 6 * 5 * 4 + 7 * 2
    assert stacked.untyped_storage().nbytes() == alone.untyped_storage().nbytes() == 0
    sleeping.wake()
    for tensor, expected in zip((*views, alone), before, strict=True):
        assert torch.equal(tensor, expected)
    assert torch.equal(stacked, torch.cat(before[:2]))
