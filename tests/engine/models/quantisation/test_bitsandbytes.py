"""bitsandbytes' four bits: pieces, another storage type, and files that are damaged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engine.models.quantisation.cases import FIXTURES, Tensors, changed, load, refusal

from multiflora_engine.models.quantisation import quantised_tensor

Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"
STATE = f"{Q}.weight.quant_state.bitsandbytes__nf4"


def bytes_of(text: str) -> torch.Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def test_a_large_matrix_is_dequantised_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows of 96 begin inside a block of 64."""
    whole = load(FIXTURES / "bnb-nf4").base_weight(DOWN)
    monkeypatch.setattr(quantised_tensor, "_PIECE_ELEMENTS", 300)
    assert torch.equal(load(FIXTURES / "bnb-nf4").base_weight(DOWN), whole)


def test_bytes_that_are_stored_as_another_type(tmp_path: Path) -> None:
    """As bnb_4bit_quant_storage asks for, so that FSDP can shard them."""

    def store(tensors: Tensors) -> None:
        tensors[f"{Q}.weight"] = tensors[f"{Q}.weight"].flatten().view(torch.bfloat16)[:, None]

    found = load(changed("bnb-nf4", tmp_path, store))
    assert torch.equal(found.base_weight(Q), load(FIXTURES / "bnb-nf4").base_weight(Q))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda t: t.pop(STATE), r"lacks \S+quant_state"),
        (lambda t: t.update({STATE: bytes_of("{")}), "nf4 is not valid"),
        (lambda t: t.update({STATE: bytes_of('{"quant_type":"nf4","blocksize":0,"shape":[64,64]}')}), "size below 1"),
        (
            lambda t: t.update({STATE: bytes_of('{"quant_type":"nf4","blocksize":64,"shape":[64,64]}')}),
            "lacks what belongs",
        ),
        (lambda t: t.update({STATE: bytes_of('{"quant_type":"int4","blocksize":64,"shape":[64,64]}')}), "is not valid"),
        (lambda t: t.update({f"{Q}.weight": t[f"{Q}.weight"][:-1]}), "weight has 2047 bytes; .* needs 2048"),
        (
            lambda t: t.update({f"{Q}.weight.absmax": t[f"{Q}.weight.absmax"][:9]}),
            r"absmax has the shape \[9\]; \[64\]",
        ),
        (lambda t: t.update({f"{Q}.weight.quant_map": torch.ones(15)}), r"quant_map has the shape \[15\]; \[16\]"),
        (lambda t: t.pop(f"{Q}.weight.nested_absmax"), r"lacks \S+nested_absmax"),
    ],
)
def test_damaged_files_are_refused_by_the_tensors_name(damage: Any, words: str, tmp_path: Path) -> None:
    message = refusal(changed("bnb-nf4", tmp_path, damage))
    assert re.search(words, message), message
    assert Q in message


def test_four_bits_or_eight(tmp_path: Path) -> None:
    assert "either load_in_4bit" in refusal(changed("bnb-nf4", tmp_path, load_in_8bit=True))
    assert "either load_in_4bit" in refusal(changed("bnb-nf4", tmp_path, load_in_4bit=False))
    assert "weight is U8; it has to be I8" in refusal(
        changed("bnb-nf4", tmp_path, load_in_4bit=False, load_in_8bit=True)
    )
