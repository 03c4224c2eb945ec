"""Where a checkpoint's tensor goes: its values as they are meant there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from multiflora_adapters.base_model import Site
from multiflora_engine.models.checkpoint import stored_tensors
from multiflora_engine.models.quantisation import plain
from multiflora_engine.models.quantisation.plain import PlainTensor
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


@pytest.mark.parametrize("order", [None, (4, 2, 0, 1, 3)])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_a_part_is_filled_with_its_rows_or_columns(order: tuple[int, ...] | None, is_transposed: bool) -> None:
    stored = torch.randn(5, 6)
    served = stored if order is None else stored[list(order)]
    given = Pieces(stored.t().contiguous() if is_transposed else stored)
    whole = Site("w", 6, 5, row_order=order)
    rows = whole.with_rows(((0, 1), (3, 5)))
    for part, expected in (
        (rows, served[[0, 3, 4]]),
        (whole.with_columns(2, 5), served[:, 2:5]),
    ):
        target = Target(torch.empty(expected.shape), part.row_order, is_transposed, part.part)
        assert target.stored_shape == given.shape
        target.fill_from(given)
        assert torch.equal(target.tensor, expected)
    bias = Target(torch.empty(3), rows.row_order, part=rows.part)
    assert bias.stored_shape == (5,)
    bias.fill_from(Pieces(stored[:, 0].contiguous()))
    assert torch.equal(bias.tensor, served[[0, 3, 4], 0])


def test_of_a_file_only_the_rows_of_a_part_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, read = torch.randn(50, 6), list[int]()
    save_file({"w": stored, "b": stored[:, 0].contiguous()}, tmp_path / "model.safetensors")
    rows = plain.read_rows
    monkeypatch.setattr(plain, "read_rows", lambda tensor: read.append(tensor.num_bytes) or rows(tensor))
    site = Site("w", 6, 50).with_rows(((10, 12), (40, 41)))
    for name, expected in (("w", stored[[10, 11, 40]]), ("b", stored[[10, 11, 40], 0])):
        target = Target(torch.empty(expected.shape), site.row_order, part=site.part)
        target.fill_from(PlainTensor(name, stored_tensors(tmp_path)[name]))
        assert torch.equal(target.tensor, expected)
    assert read == [48, 24, 8, 4]
