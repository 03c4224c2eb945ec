"""AWQ files that are damaged, and what config.json may not say of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engine.models.quantisation.cases import FIXTURES, changed, load, refusal

from multiflora_engine.models.quantisation import quantised_tensor

Q = "model.layers.0.self_attn.q_proj"


def test_a_large_matrix_is_dequantised_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load(FIXTURES / "awq").base_weight(Q)
    monkeypatch.setattr(quantised_tensor, "_PIECE_ELEMENTS", 1100)
    assert torch.equal(load(FIXTURES / "awq").base_weight(Q), whole)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda t: t.update({f"{Q}.qzeros": t[f"{Q}.qzeros"][:1]}), r"qzeros has the shape \[1, 8\]; \[2, 8\]"),
        (lambda t: t.update({f"{Q}.scales": t[f"{Q}.scales"][:1]}), r"scales has the shape \[1, 64\]; \[2, 64\]"),
        (lambda t: t.update({f"{Q}.qweight": t[f"{Q}.qweight"].float()}), "qweight is F32; it has to be I32"),
        (lambda t: t.pop(f"{Q}.qzeros"), rf"lacks {Q}\.qzeros"),
    ],
)
def test_damaged_files_are_refused_by_the_tensors_name(damage: Any, words: str, tmp_path: Path) -> None:
    message = refusal(changed("awq", tmp_path, damage))
    assert re.search(words, message), message
    assert Q in message


def test_a_module_that_the_list_leaves_out_must_not_be_quantised(tmp_path: Path) -> None:
    message = refusal(changed("awq", tmp_path, modules_to_not_convert=["lm_head", "q_proj"]))
    assert f"{Q} is quantised, but config.json's quantization_config leaves it out" in message


def test_old_names_of_settings(tmp_path: Path) -> None:
    old = changed("awq", tmp_path, bits=None, group_size=None, w_bit=4, q_group_size=32)
    assert torch.equal(load(old).base_weight(Q), load(FIXTURES / "awq").base_weight(Q))
