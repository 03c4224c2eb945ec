"""GPTQ beyond the fixtures: act-order, version 2, single modules, and files that are damaged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engine.models.quantisation.cases import FIXTURES, Tensors, changed, load, refusal

from multiflora_engine.models.checkpoint import stored_tensors
from multiflora_engine.models.configuration.reading import load_model_config
from multiflora_engine.models.loader import load_weights
from multiflora_engine.models.quantisation import quantised_tensor

Q = "model.layers.0.self_attn.q_proj"


def test_groups_out_of_order_are_those_that_g_idx_says(tmp_path: Path) -> None:
    """Inputs quantised in another order: the same file with its inputs permuted is the same matrix permuted."""
    order = torch.randperm(64, generator=torch.Generator().manual_seed(5))

    def permute(tensors: Tensors) -> None:
        words = tensors[f"{Q}.qweight"]
        values = torch.stack([(words >> shift) & 15 for shift in range(0, 32, 4)], dim=1).reshape(64, 64)[order]
        packed = sum(values.view(8, 8, 64)[:, place].long() << (4 * place) for place in range(8))
        assert isinstance(packed, torch.Tensor)
        tensors[f"{Q}.qweight"] = packed.to(torch.int32)
        tensors[f"{Q}.g_idx"] = tensors[f"{Q}.g_idx"][order].contiguous()

    expected = load(FIXTURES / "gptq-4-asym").base_weight(Q)[:, order]
    found = load(changed("gptq-4-asym", tmp_path, permute, desc_act=True)).base_weight(Q)
    assert torch.equal(found, expected)


def test_without_g_idx_groups_follow_one_another(tmp_path: Path) -> None:
    without = changed("gptq-4", tmp_path, lambda tensors: tensors.pop(f"{Q}.g_idx"))
    assert torch.equal(load(without).base_weight(Q), load(FIXTURES / "gptq-4").base_weight(Q))
    without = changed("gptq-4", tmp_path, lambda tensors: tensors.pop(f"{Q}.g_idx"), desc_act=True)
    assert refusal(without).startswith(f"The checkpoint lacks {Q}.g_idx, but has")


def test_version_2_stores_zero_points_as_they_are(tmp_path: Path) -> None:
    def to_v2(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.endswith(".qzeros")]:
            tensors[name] = torch.full_like(tensors[name], -0x77777778)  # eights instead of sevens

    found = load(changed("gptq-4", tmp_path, to_v2, checkpoint_format="gptq_v2"))
    assert torch.equal(found.base_weight(Q), load(FIXTURES / "gptq-4").base_weight(Q))
    mistaken = load(changed("gptq-4", tmp_path, to_v2))
    assert not torch.allclose(mistaken.base_weight(Q), found.base_weight(Q), atol=1e-2)


def test_a_zero_point_of_zero_wraps_around_in_version_1(tmp_path: Path) -> None:
    def wrap(tensors: Tensors) -> None:
        tensors[f"{Q}.qzeros"] = torch.full_like(tensors[f"{Q}.qzeros"], -1)
        tensors[f"{Q}.scales"] = tensors[f"{Q}.scales"].abs()

    assert (load(changed("gptq-4", tmp_path, wrap)).base_weight(Q) >= 0).all()


def test_a_large_matrix_is_dequantised_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load(FIXTURES / "gptq-3").base_weight(Q)
    monkeypatch.setattr(quantised_tensor, "_PIECE_ELEMENTS", 300)
    assert torch.equal(load(FIXTURES / "gptq-3").base_weight(Q), whole)


def test_modules_of_their_own_settings(tmp_path: Path) -> None:
    """GPTQModel's `dynamic`: other bits for a pattern, none for another."""
    dense = load(FIXTURES / "gptq-8").base_weight(Q)

    def unquantise(tensors: Tensors) -> None:
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            tensors.pop(f"{Q}.{part}")
        tensors[f"{Q}.weight"] = dense.clone()

    other = {r"-:.*layers\.0\.self_attn\.q_proj": {}, r"+:.*layers\.1": {"bits": 4, "group_size": 32}}
    assert torch.equal(
        load(changed("gptq-8", tmp_path, unquantise, dynamic={next(iter(other)): {}})).base_weight(Q), dense
    )
    assert re.search(r"layers\.1\S+ has the shape", refusal(changed("gptq-8", tmp_path, unquantise, dynamic=other)))
    assert "q_proj.weight is not quantised, and config.json" in refusal(changed("gptq-8", tmp_path, unquantise))
    listed = [["self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"], ["mlp.gate_proj", "mlp.up_proj"]]
    message = refusal(changed("gptq-8", tmp_path, unquantise, modules_in_block_to_quantize=listed))
    assert "mlp.down_proj is quantised, but config.json" in message
    listed[1].append("mlp.down_proj")
    few = changed("gptq-8", tmp_path, unquantise, modules_in_block_to_quantize=listed)
    assert "q_proj is quantised, but config.json" in refusal(few)  # that of layer 1


def test_biases_of_zeros_that_tools_added_are_left(tmp_path: Path) -> None:
    zeros = changed("gptq-4", tmp_path, lambda tensors: tensors.update({f"{Q}.bias": torch.zeros(64)}))
    assert torch.equal(load(zeros).base_weight(Q), load(FIXTURES / "gptq-4").base_weight(Q))
    ones = changed("gptq-4", tmp_path, lambda tensors: tensors.update({f"{Q}.bias": torch.ones(64)}))
    assert f"does not account for: {Q}.bias" in refusal(ones)


def test_progress_counts_the_bytes_of_the_files() -> None:
    folder = FIXTURES / "gptq-4"
    steps: list[tuple[int, int]] = []
    load_weights(
        folder, load_model_config(folder), torch.float32, torch.device("cpu"), lambda *step: steps.append(step)
    )
    total = sum(tensor.num_bytes for tensor in stored_tensors(folder).values())
    assert steps[-1] == (total, total)


DAMAGES: list[tuple[Any, str]] = [
    (lambda t: t.update({f"{Q}.qzeros": t[f"{Q}.qzeros"][:1]}), r"qzeros has the shape \[1, 8\]; \[2, 8\]"),
    (lambda t: t.update({f"{Q}.scales": t[f"{Q}.scales"][:, :60]}), r"scales has the shape \[2, 60\]; \[2, 64\]"),
    (lambda t: t.update({f"{Q}.scales": t[f"{Q}.scales"].int()}), "scales is I32; it has to be F32 or F16 or BF16"),
    (
        lambda t: t.update({f"{Q}.qweight": t[f"{Q}.qweight"][0]}),
        r"qweight has the shape \[64\]; it has to be a matrix",
    ),
    (lambda t: t.update({f"{Q}.qweight": t[f"{Q}.qweight"].long()}), "qweight is I64; it has to be I32"),
    (lambda t: t.update({f"{Q}.qweight": t[f"{Q}.qweight"][:7]}), "qweight has no groups of 32, .* its 56 inputs"),
    (lambda t: t.update({f"{Q}.g_idx": t[f"{Q}.g_idx"] + 1}), "g_idx names groups from 1 to 2; there are 2"),
    (lambda t: t.update({f"{Q}.g_idx": t[f"{Q}.g_idx"] - 1}), "g_idx names groups from -1 to 0; there are 2"),
    (lambda t: t.update({f"{Q}.g_idx": t[f"{Q}.g_idx"][:9]}), r"g_idx has the shape \[9\]; \[64\]"),
    (lambda t: t.pop(f"{Q}.scales"), rf"lacks {Q}\.scales, but has {Q}\.g_idx, {Q}\.qweight"),
    (lambda t: t.pop(f"{Q}.qweight"), rf"lacks {Q}\.qweight"),
    (lambda t: [t.pop(f"{Q}.{part}") for part in ("qweight", "qzeros", "scales", "g_idx")], rf"lacks {Q}\.weight"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES)
def test_damaged_files_are_refused_by_the_tensors_name(damage: Any, words: str, tmp_path: Path) -> None:
    message = refusal(changed("gptq-4", tmp_path, lambda tensors: (damage(tensors), _contiguous(tensors))))
    assert re.search(words, message), message
    assert Q in message


def _contiguous(tensors: Tensors) -> None:
    tensors.update({name: tensor.contiguous() for name, tensor in tensors.items()})


def test_another_group_size_than_that_of_the_file_is_refused(tmp_path: Path) -> None:
    message = "qweight has no groups of 33, which do not divide its 64 inputs"
    assert message in refusal(changed("gptq-4", tmp_path, group_size=33))
    assert "scales has the shape" in refusal(changed("gptq-4", tmp_path, group_size=-1))
    assert "has the shape" in refusal(changed("gptq-4", tmp_path, bits=8))


def test_damage_is_seen_before_memory_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = changed("gptq-4", tmp_path, lambda t: t.update({f"{Q}.qzeros": t[f"{Q}.qzeros"][:1].contiguous()}))
    monkeypatch.setattr("multiflora_engine.models.loader._allocate", lambda *_: pytest.fail("memory was taken"))
    assert "qzeros has the shape" in refusal(damaged)
