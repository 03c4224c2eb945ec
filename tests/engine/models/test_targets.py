"""Where a checkpoint's tensor goes: its values as they are meant there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from multiflora_engine.models.targets import Target


def test_an_offset_is_added_before_anything_is_rounded() -> None:
    """A norm of Gemma in a bfloat16 file: 1 + 0.001 is no bfloat16."""
    stored = torch.tensor([0.001, -0.002, 0.5], dtype=torch.bfloat16)
    target = Target(torch.empty(3), offset=1.0)
    target.fill(stored)
    assert torch.equal(target.tensor, 1.0 + stored.float())


def test_rows_are_made_piece_by_piece() -> None:
    """Those of a normalised head, and heads' dimensions in the order in which they turn here."""
    stored = torch.tensor([[3.0, 4.0], [0.0, 0.5], [0.0, 0.0]])
    head = Target(torch.empty(3, 2), is_normalised=True)
    assert head.takes_pieces
    expected = torch.tensor([[0.6, 0.8], [0.0, 1.0], [0.0, 0.0]])
    assert torch.equal(torch.cat([head.served(stored[:1]), head.served(stored[1:])]), expected)
    turned = Target(torch.empty(3, 2), column_order=(1, 0))
    turned.fill(stored)
    assert turned.takes_pieces
    assert torch.equal(turned.tensor, stored.flip(1))
    assert not Target(torch.empty(2, 3), is_transposed=True).takes_pieces


@dataclass
class Pieces:
    """A `DenseSource` that comes in pieces of two rows."""

    values: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    @property
    def num_bytes(self) -> int:
        return self.values.nbytes

    def check(self) -> None:
        pass

    def pieces(self) -> Iterator[torch.Tensor]:
        yield from self.values.view(-1, self.values.shape[-1]).split(2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_in_another_order_find_their_places_piece_by_piece(dtype: torch.dtype) -> None:
    stored, order = torch.randn(5, 3), (3, 0, 4, 1, 2)
    target = Target(torch.empty(5, 3, dtype=dtype), row_order=order)
    assert target.takes_pieces
    target.fill_from(Pieces(stored))
    assert torch.equal(target.tensor, stored[list(order)].to(dtype))
    bias = Target(torch.empty(5, dtype=dtype), row_order=order)
    bias.fill_from(Pieces(stored[:, 0].contiguous()))
    assert torch.equal(bias.tensor, stored[list(order), 0].to(dtype))
