"""Linears that are kept in 4 and 8 bits: which are, what they stand for, what they take, and what is served of them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.engine.models.quantisation.cases import FIXTURES, changed
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MixtralConfig

from multiflora_engine.models.configuration.reading import load_model_config
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.loader import load_weights
from multiflora_engine.models.storage import choice
from multiflora_engine.models.storage.choice import Storage
from multiflora_engine.models.weights import ModelWeights
from multiflora_kernels.linear import bfloat16, quantised
from multiflora_kernels.linear.bfloat16 import BFloat16Way, BFloat16Weight
from multiflora_kernels.linear.dense import DenseWeight
from multiflora_kernels.linear.integer import IntegerWay
from multiflora_kernels.linear.quantised import INT8, W8A8, IntegerForm, QuantisedWeight
from multiflora_kernels.runtime.native import library

CPU = torch.device("cpu")
OF_A_TABLE = {IntegerForm(4, 64, table=()), IntegerForm(4, 32, table=())}  # rows of 96 share blocks of 64
KEPT = {
    "awq": {IntegerForm(4, 32, has_zeros=True)},
    "bnb-fp4": OF_A_TABLE,
    "bnb-int8": {INT8},
    "bnb-nf4": OF_A_TABLE,
    "bnb-nf4-plain": OF_A_TABLE,
    "ct-fp8-block": {IntegerForm(8, 32, float_type=torch.float8_e4m3fn)},
    "ct-fp8-dyn": {IntegerForm(8, float_type=torch.float8_e4m3fn)},
    "ct-fp8-static": {IntegerForm(8, float_type=torch.float8_e4m3fn)},
    "ct-w4a16": {IntegerForm(4, 32)},
    "ct-w4a16-asym": {IntegerForm(4, 32, has_zeros=True)},
    "ct-w8a16": {INT8},
    "ct-w8a8": {INT8},
    "gptq-2": {IntegerForm(2, 32, has_zeros=True)},
    "gptq-3": {IntegerForm(3, 32, has_zeros=True)},
    "gptq-4": {IntegerForm(4, 32, has_zeros=True)},
    "gptq-4-asym": {IntegerForm(4, 32, has_zeros=True)},
    "gptq-8": {IntegerForm(8, has_zeros=True)},
}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def load(folder: Path, storage: Storage, dtype: torch.dtype = torch.float32, **options: Any) -> ModelWeights:
    return load_weights(folder, load_model_config(folder), dtype, CPU, storage=storage, **options)


def forms(weights: ModelWeights) -> set[IntegerForm | None]:
    """Of all linears but the head; tables without their values."""
    found = [p.weight for layer in weights.layers for p in layer.projections]
    kept = [weight.form if isinstance(weight, QuantisedWeight) else None for weight in found]
    return {replace(form, table=()) if form is not None and form.table is not None else form for form in kept}


@pytest.mark.parametrize("name", sorted(path.parent.name for path in FIXTURES.glob("*/config.json")))
def test_a_checkpoints_integers_are_kept_exactly_where_one_layout_has_them(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    kept = load(FIXTURES / name, "as_stored")
    assert ("14 of the checkpoint's 14 quantised linears are served dequantised" in caplog.text) == (name not in KEPT)
    dense = load(FIXTURES / name, "dense")
    assert forms(kept) == KEPT.get(name, {None})
    for site in dense.targets():
        if site.endswith("proj.weight"):
            module = site.removesuffix(".weight")
            assert torch.equal(kept.base_weight(module), dense.base_weight(module)), site


@pytest.mark.parametrize("name", ["gptq-4", "bnb-nf4"])
def test_four_bits_take_a_third_of_bfloat16(name: str) -> None:
    kept, dense = (load(FIXTURES / name, storage, torch.bfloat16) for storage in ("as_stored", "dense"))
    ratios = [
        narrow.weight.nbytes / wide.weight.nbytes
        for one, other in zip(kept.layers, dense.layers, strict=True)
        for narrow, wide in zip(one.projections, other.projections, strict=True)
    ]
    assert max(ratios) <= 0.35  # in groups of 32; 0.27 in groups of 128
    assert kept.base_weight("model.layers.1.mlp.down_proj").dtype == torch.bfloat16


def test_groups_out_of_order_are_kept_in_theirs(tmp_path: Path, start_engine: Any, ask: Any) -> None:
    """desc_act: the inputs of one product share an order, which follows from them alone."""

    def shuffle(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.endswith(".g_idx")]:
            order = torch.randperm(len(tensors[name]), generator=torch.Generator().manual_seed(len(tensors[name])))
            tensors[name] = tensors[name][order].contiguous()

    folder = changed("gptq-4-asym", tmp_path, shuffle, desc_act=True)
    kept, dense = load(folder, "as_stored"), load(folder, "dense")
    assert None not in forms(kept)
    assert all(form is not None and form.order is not None for form in forms(kept))
    assert 0 < kept.num_bytes < 0.75 * dense.num_bytes
    for module in ("self_attn.k_proj", "mlp.up_proj", "mlp.down_proj"):
        name = f"model.layers.1.{module}"
        assert torch.equal(kept.base_weight(name), dense.base_weight(name))
    prompts = [[1, 5, 9, 44, 17], list(range(2, 90))]
    answers = [ask(start_engine(folder, dequantize=dequantize), prompts) for dequantize in (False, True)]
    assert [one.tokens for one in answers[0]] == [one.tokens for one in answers[1]]


def test_a_float_that_is_not_finite_is_refused_by_name(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.o_proj.weight"
    folder = changed("ct-fp8-dyn", tmp_path, lambda t: t[name].view(torch.uint8)[3, 5].fill_(0x7F))
    with pytest.raises(ModelError, match=rf"{name} has values that are not finite"):
        load(folder, "as_stored")


def test_groups_of_unequal_sizes_are_dequantised(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.o_proj"
    found = load(changed("gptq-4", tmp_path, lambda t: t[f"{name}.g_idx"][40:50].fill_(0)), "as_stored")
    assert not isinstance(found.layers[0].o.weight, QuantisedWeight)
    assert isinstance(found.layers[1].o.weight, QuantisedWeight)


def test_stacked_linears_of_several_forms_are_dense(tmp_path: Path) -> None:
    q = "model.layers.0.self_attn.q_proj"
    mixed = changed("gptq-4", tmp_path, lambda t: t.update({f"{q}.g_idx": t[f"{q}.g_idx"].flip(0).contiguous()}))
    first, second = load(mixed, "as_stored").layers
    assert not isinstance(first.qkv.weight, QuantisedWeight)
    assert isinstance(first.o.weight, QuantisedWeight)
    assert isinstance(second.qkv.weight, QuantisedWeight)
    assert torch.equal(load(mixed, "as_stored").base_weight(q), load(mixed, "dense").base_weight(q))


def test_memory_is_compared_with_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = load(FIXTURES / "gptq-4", "as_stored").num_bytes
    assert needed < 0.7 * load(FIXTURES / "gptq-4", "dense").num_bytes
    assert load(FIXTURES / "gptq-4", "as_stored", available=needed).num_bytes == needed
    with pytest.raises(ModelError, match="The weights take"):
        load(FIXTURES / "gptq-4", "as_stored", available=needed - 1)


@pytest.mark.parametrize(("storage", "form"), [("int8_weight_only", INT8), ("w8a8", W8A8)])
@pytest.mark.parametrize("config_class", [LlamaConfig, GPT2Config, MixtralConfig])
def test_int8_is_the_nearest_to_every_linear(
    config_class: Any, storage: Storage, form: IntegerForm, tiny_config: Any, save_model: Any
) -> None:
    """Stored transposed and stacked (GPT-2), and expert by expert, but for the router; of the head weight-only, also
    where it is the embedding (GPT-2), which stays as it is."""
    _, folder = save_model(tiny_config(config_class))
    kept, dense = load(folder, storage), load(folder, "dense")
    is_mixture = config_class is MixtralConfig
    assert forms(kept) == ({form, None} if is_mixture else {form})
    assert isinstance(kept.ends.lm_head.weight, QuantisedWeight)
    assert kept.ends.lm_head.weight.form == INT8
    assert torch.equal(kept.ends.embed_tokens, dense.ends.embed_tokens)
    assert kept.ends.is_head_tied == (config_class is GPT2Config)
    assert not kept.is_exact("lm_head")
    assert dense.is_exact("lm_head")
    assert kept.is_exact(kept.ends.embedding_site)
    assert kept.num_bytes < 0.75 * dense.num_bytes
    compared = 0
    for name in dense.targets():
        module = name.removesuffix(".weight")
        try:
            expected = dense.base_weight(module)
        except KeyError:
            continue
        found, compared = kept.base_weight(module), compared + 1
        step = expected.abs().amax(1, keepdim=True) / 127
        assert ((found - expected).abs() <= 0.501 * step).all(), name
    assert compared > 8


@pytest.mark.parametrize(("quantization", "dora"), [("int8-weight-only", True), ("int8", False), ("int8", True)])
def test_adapters_on_int8_say_what_peft_says_on_its_values(
    quantization: str,
    dora: bool,
    tiny_config: Any,
    save_model: Any,
    start_engine: Any,
    ask: Any,
    check_answer: Any,
    store: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Our kernel rounds activations to 16 bits, which is less than what answers are compared to."""
    if library() is None:
        pytest.skip("no native library")
    for module in (choice, quantised):
        monkeypatch.setattr(module, "integer_way", lambda: IntegerWay("words", 2))
    model, folder = save_model(tiny_config(LlamaConfig))
    weights = load(folder, "int8_weight_only")
    names = [name.removesuffix(".weight") for name in model.state_dict() if "proj" in name or "head" in name]
    model.load_state_dict({f"{name}.weight": weights.base_weight(name) for name in names}, strict=False)
    torch.manual_seed(5)
    adapted = get_peft_model(
        model, LoraConfig(r=4, target_modules=[*LINEAR, "lm_head"], use_dora=dora, init_lora_weights=False)
    )
    adapted.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=True)
    digest = store.add(tmp_path / "adapter").digest
    prompts = [[1, 5, 9, 44, 17, 101], list(range(3, 80))]
    engine = start_engine(folder, dtype="float32", quantization=quantization)
    stored = load(folder, "w8a8" if quantization == "int8" else "int8_weight_only")
    assert engine.ready.weight_bytes == stored.num_bytes
    adapted_answer, base_answer = ask(engine, prompts, [digest, None])
    check_answer(adapted.eval(), prompts[0], adapted_answer)
    with adapted.disable_adapter():
        check_answer(adapted, prompts[1], base_answer)


def is_chosen(monkeypatch: pytest.MonkeyPatch, way: BFloat16Way) -> None:
    for module in (choice, bfloat16):
        monkeypatch.setattr(module, "bfloat16_way", lambda: way)


@pytest.mark.parametrize(
    ("config_class", "way"),
    [
        (LlamaConfig, BFloat16Way(4)),
        (LlamaConfig, BFloat16Way(None)),
        (GPT2Config, BFloat16Way(None)),
        (MixtralConfig, BFloat16Way(4)),
    ],
)
def test_linears_in_bfloat16_are_those_of_the_checkpoint(
    config_class: Any, way: BFloat16Way, tiny_config: Any, save_model: Any, start_engine: Any, ask: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Half the memory, and the answers of float32, or of a model whose products are made in bfloat16."""
    is_chosen(monkeypatch, way)
    model, folder = save_model(tiny_config(config_class))
    model.bfloat16().save_pretrained(folder)
    kept, dense = load(folder, "bfloat16"), load(folder, "dense")
    is_mixture = config_class is MixtralConfig
    assert {type(p.weight) for layer in kept.layers for p in layer.projections} == (
        {BFloat16Weight, DenseWeight} if is_mixture else {BFloat16Weight}
    )
    assert kept.ends.lm_head.weight.dequantised_rows(0, 1).dtype == kept.dtype == torch.float32
    assert (kept.ends.embed_tokens is getattr(kept.ends.lm_head.weight, "tensor", None)) == kept.ends.is_head_tied
    # GPT-2 has a table of positions, which stays in float32.
    assert kept.kv_dtype == (torch.float32 if way.rounds_from is None else torch.bfloat16)
    assert dense.kv_dtype == torch.float32
    assert kept.num_bytes < (0.65 if config_class is GPT2Config else 0.52) * dense.num_bytes
    for name in dense.targets():
        module = name.removesuffix(".weight")
        if module in dense._places or module == dense.ends.embedding_site:
            assert torch.equal(kept.base_weight(module).float(), dense.base_weight(module)), name
            assert kept.is_exact(module)
    prompts = [[1, 5, 9, 44, 17], list(range(2, 40))]
    engine, in_float32 = start_engine(folder, dtype="auto"), start_engine(folder, dtype="float32")
    assert (engine.ready.weight_bytes, engine.ready.dtype) == (kept.num_bytes, "float32")
    kv_bytes = [one.ready.kv_bytes / one.ready.num_blocks for one in (engine, in_float32)]
    assert kv_bytes[1] / kv_bytes[0] == (1 if way.rounds_from is None else 2)
    narrow, wide = ask(engine, prompts), ask(in_float32, prompts)
    for one, other in zip(narrow, wide, strict=True):
        # Of a first token: later ones may be others where activations are rounded.
        assert one.logprobs[0] == pytest.approx(other.logprobs[0], abs=1e-5 if way.rounds_from is None else 0.06)
        if way.rounds_from is None:
            assert one.tokens == other.tokens
        else:
            assert one.logprobs[0] != other.logprobs[0]


@pytest.mark.parametrize(("way", "near"), [(BFloat16Way(4), 0.06), (BFloat16Way(None), 1e-4)])
def test_adapters_beside_linears_in_bfloat16(
    way: BFloat16Way, near: float, tiny_config: Any, save_model: Any, start_engine: Any, ask: Any, store: Any,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """DoRA and the base in one batch, beside PEFT in float32 on the same values."""
    is_chosen(monkeypatch, way)
    model, folder = save_model(tiny_config(LlamaConfig))
    model.bfloat16().save_pretrained(folder)
    torch.manual_seed(5)
    config = LoraConfig(r=4, target_modules=[*LINEAR, "lm_head"], use_dora=True, init_lora_weights=False)
    # Read anew: a model that was rounded keeps its rotation's frequencies rounded.
    in_float32 = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    adapted = get_peft_model(in_float32, config).eval()
    adapted.save_pretrained(str(tmp_path / "adapter"))
    digest = store.add(tmp_path / "adapter").digest
    prompts = [[1, 5, 9, 44, 17, 101], list(range(3, 60))]
    with_adapter, base = ask(start_engine(folder, dtype="auto"), prompts, [digest, None])
    with torch.no_grad():
        for prompt, answer, off in ((prompts[0], with_adapter, False), (prompts[1], base, True)):
            with adapted.disable_adapter() if off else nullcontext():
                expected = adapted(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
            assert answer.logprobs[0] == pytest.approx(expected[answer.tokens[0]].item(), abs=near)
            assert expected.max() - expected[answer.tokens[0]] < 2 * near
