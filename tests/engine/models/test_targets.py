"""Where a checkpoint's tensor goes: its values as they are meant there."""

from __future__ import annotations

import torch

from multiflora_engine.models.targets import Target


def test_an_offset_is_added_before_anything_is_rounded() -> None:
    """A norm of Gemma in a bfloat16 file: 1 + 0.001 is no bfloat16."""
    stored = torch.tensor([0.001, -0.002, 0.5], dtype=torch.bfloat16)
    target = Target(torch.empty(3), offset=1.0)
    target.fill(stored)
    assert torch.equal(target.tensor, 1.0 + stored.float())
    assert not target.is_plain
