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


def test_rows_that_keep_their_places_are_made_piece_by_piece() -> None:
    """Those of a normalised head, and heads' dimensions in the order in which they turn here."""
    stored = torch.tensor([[3.0, 4.0], [0.0, 0.5], [0.0, 0.0]])
    head = Target(torch.empty(3, 2), is_normalised=True)
    assert head.keeps_rows
    expected = torch.tensor([[0.6, 0.8], [0.0, 1.0], [0.0, 0.0]])
    assert torch.equal(torch.cat([head.served(stored[:1]), head.served(stored[1:])]), expected)
    turned = Target(torch.empty(3, 2), column_order=(1, 0))
    turned.fill(stored)
    assert turned.keeps_rows
    assert torch.equal(turned.tensor, stored.flip(1))
    assert not Target(torch.empty(2, 3), is_transposed=True).keeps_rows
