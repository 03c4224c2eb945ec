"""Plain tensors come piece by piece, in whole rows, and an early end is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from multiflora_engine.models.checkpoint import stored_tensors
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.quantisation.plain import PlainTensor


def source(folder: Path, tensor: torch.Tensor) -> PlainTensor:
    save_file({"before": torch.ones(3), "w": tensor}, folder / "model.safetensors")
    return PlainTensor("w", stored_tensors(folder)["w"])


@pytest.mark.parametrize("piece_bytes", [1, 40, 50, 1 << 20])
@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5), (5,), (7, 1), ()])
def test_pieces_are_rows_in_order(
    piece_bytes: int, shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multiflora_engine.models.quantisation.plain._PIECE_BYTES", piece_bytes)
    tensor = torch.randn(shape)
    plain = source(tmp_path, tensor)
    pieces = [piece.clone() for piece in plain.pieces()]
    columns = shape[-1] if shape else 1
    assert torch.equal(torch.cat(pieces), tensor.view(-1, columns))
    assert all(piece.nbytes <= max(piece_bytes, columns * 4) for piece in pieces)
    assert (plain.shape, plain.num_bytes) == (shape, tensor.nbytes)


def test_a_file_that_ends_while_it_is_read_is_refused(tmp_path: Path) -> None:
    plain = source(tmp_path, torch.ones(9, 9))
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ModelError, match="ended while it was read"):
        list(plain.pieces())
