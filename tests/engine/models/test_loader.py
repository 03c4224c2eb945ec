"""Checkpoints as they come: sharded, in other types, tied, incomplete, damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CohereConfig, LlamaConfig, MixtralConfig, Phi3Config, Qwen2Config, StableLmConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from multiflora_engine import build
from multiflora_engine.models.configuration.reading import load_model_config
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.loader import load_weights
from multiflora_engine.models.weights import ModelWeights
from multiflora_engine.protocol.config import EngineConfig

CPU = torch.device("cpu")


def load(folder: Path, dtype: torch.dtype = torch.float32, progress: Any = None) -> ModelWeights:
    return load_weights(folder, load_model_config(folder), dtype, CPU, progress)


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(folder)
    return str(caught.value)


@pytest.fixture
def saved(tiny_config: Any, save_model: Any) -> tuple[Any, Path]:
    model, folder = save_model(tiny_config(LlamaConfig, attention_bias=True))
    return model, folder


def rewrite(folder: Path, change: Any) -> None:
    """Save the single weight file again after `change(tensors)`."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize("config_class", [LlamaConfig, Qwen2Config, Phi3Config, MixtralConfig])
def test_every_weight_lands_where_its_site_says(config_class: Any, tiny_config: Any, save_model: Any) -> None:
    model, folder = save_model(tiny_config(config_class))
    weights = load(folder)
    linears = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Embedding)}
    for name, module in linears.items():
        assert torch.equal(weights.base_weight(name), module.weight), name
    assert sum(p.numel() for p in model.parameters()) * 4 == weights.num_bytes
    with pytest.raises(KeyError):
        weights.base_weight("model.layers.0.self_attn")


def test_shards_and_progress(saved: Any, tmp_path: Path) -> None:
    model, folder = saved
    model.save_pretrained(tmp_path / "sharded", max_shard_size="60KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    steps: list[tuple[int, int]] = []
    weights = load(tmp_path / "sharded", progress=lambda done, total: steps.append((done, total)))
    assert torch.equal(weights.base_weight("lm_head"), load(folder).base_weight("lm_head"))
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert steps[-1] == (weights.num_bytes, weights.num_bytes)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("served", [torch.float32, torch.bfloat16, torch.float16])
def test_types_are_converted_while_reading(saved: Any, tmp_path: Path, stored: Any, served: Any) -> None:
    model, _ = saved
    expected = model.to(stored)
    expected.save_pretrained(tmp_path / "other")
    weights = load(tmp_path / "other", served)
    assert weights.dtype == served
    assert torch.equal(weights.base_weight("lm_head"), expected.lm_head.weight.to(served))
    assert torch.equal(weights.ends.norm.weight, expected.model.norm.weight.to(served))


def test_tensors_larger_than_the_buffer_are_read_in_pieces(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, folder = saved
    monkeypatch.setattr("multiflora_engine.models.quantisation.plain._PIECE_BYTES", 1000)
    assert torch.equal(load(folder).base_weight("lm_head"), model.lm_head.weight)


def test_tied_embeddings_are_one_tensor(tiny_config: Any, save_model: Any) -> None:
    model, folder = save_model(tiny_config(LlamaConfig, tie_word_embeddings=True))
    weights = load(folder)
    assert weights.base_weight("lm_head").data_ptr() == weights.ends.embed_tokens.data_ptr()
    assert weights.ends.is_head_tied
    embedding = model.model.embed_tokens.weight.detach()
    rewrite(folder, lambda tensors: tensors.update({"lm_head.weight": embedding.clone()}))
    assert load(folder).ends.is_head_tied
    rewrite(folder, lambda tensors: tensors.pop("model.embed_tokens.weight"))
    assert load(folder).ends.is_head_tied
    assert torch.equal(load(folder).ends.embed_tokens, embedding)


def test_a_copy_of_a_tied_head_in_another_type_is_compared_piece_by_piece(
    tiny_config: Any, save_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A piece of the float32 embedding has other rows than one of the bfloat16 head."""
    model, folder = save_model(tiny_config(LlamaConfig, tie_word_embeddings=True))
    monkeypatch.setattr("multiflora_engine.models.quantisation.plain._PIECE_BYTES", 7 * 64 * 4)
    head = model.model.embed_tokens.weight.detach().to(torch.bfloat16)
    rewrite(folder, lambda tensors: tensors.update({"lm_head.weight": head}))
    assert (load(folder, torch.bfloat16).ends.is_head_tied, load(folder).ends.is_head_tied) == (True, False)
    head[-1, -1] += 1
    rewrite(folder, lambda tensors: tensors.update({"lm_head.weight": head}))
    assert not load(folder, torch.bfloat16).ends.is_head_tied


@pytest.mark.parametrize("shape", [(), (0,), (300, 0), (300 * 64,)])
def test_a_tied_head_of_no_matrix_is_refused(shape: tuple[int, ...], tiny_config: Any, save_model: Any) -> None:
    _, folder = save_model(tiny_config(LlamaConfig, tie_word_embeddings=True))
    odd = {name: torch.zeros(shape) for name in ("lm_head.weight", "model.embed_tokens.weight")}
    rewrite(folder, lambda tensors: tensors.update(odd))
    assert "has the shape" in refusal(folder)


def test_a_tied_head_that_differs_is_served_as_it_is(
    tiny_config: Any, save_model: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """As transformers: config.json says tied, the file says otherwise, and the file is right."""
    model, folder = save_model(tiny_config(LlamaConfig, tie_word_embeddings=True))
    head = torch.randn(300, 64)
    rewrite(folder, lambda tensors: tensors.update({"lm_head.weight": head}))
    weights = load(folder)
    assert (weights.ends.is_head_tied, torch.equal(weights.base_weight("lm_head"), head)) == (False, True)
    assert torch.equal(weights.ends.embed_tokens, model.model.embed_tokens.weight)
    assert "differs from its embedding" in caplog.text
    oracle = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(oracle.lm_head.weight, head)
    nearly = model.model.embed_tokens.weight.detach() * (1 + 1e-5)
    rewrite(folder, lambda tensors: tensors.update({"lm_head.weight": nearly}))
    assert (load(folder).ends.is_head_tied, load(folder, torch.bfloat16).ends.is_head_tied) == (False, False)


def test_what_old_versions_saved_beside_the_weights_is_ignored(saved: Any) -> None:
    _, folder = saved
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16), "score.weight": torch.ones(2, 64)}
    rewrite(folder, lambda tensors: tensors.update(extra))
    load(folder)


def test_a_checkpoint_that_is_not_this_model_is_refused(saved: Any) -> None:
    _, folder = saved
    original = folder / "model.safetensors"
    shutil.copy(original, folder / "kept")
    changes: list[tuple[Any, str]] = [
        (lambda t: t.pop("model.norm.weight"), "lacks model.norm.weight"),
        (
            lambda t: t.update({"model.layers.9.mlp.up_proj.weight": torch.ones(2)}),
            "does not account for: model.layers.9",
        ),
        (lambda t: t.update({"lm_head.weight": torch.ones(200, 64)}), r"lm_head.weight has the shape \[200, 64\]"),
        (lambda t: t.update({"model.norm.weight": torch.ones(64).to(torch.int8)}), "model.norm.weight is I8"),
    ]
    for change, words in changes:
        shutil.copy(folder / "kept", original)
        rewrite(folder, change)
        with pytest.raises(ModelError, match=words):
            load(folder)


@pytest.mark.parametrize(
    ("config_class", "switch", "module", "shape", "words"),
    [
        (CohereConfig, "use_qk_norm", "k_norm", (2, 16), r"k_norm.weight has the shape \[2, 16\]; .* \[1, 32\]"),
        (CohereConfig, "use_qk_norm", "q_norm", None, r"lacks model.layers.1.self_attn.q_norm.weight"),
        (StableLmConfig, "qk_layernorm", "q_layernorm.norms.1", (31,), r"norms.1.weight has the shape \[31\]"),
        (StableLmConfig, "qk_layernorm", "q_layernorm.norms.1", None, r"lacks model.layers.1.\S*q_layernorm.norms.1"),
        (StableLmConfig, "qk_layernorm", "k_layernorm.norms.1", (32,), r"not account for: .*k_layernorm.norms.1"),
    ],
)
def test_norms_of_heads_that_do_not_fit_are_refused(
    config_class: Any, switch: str, module: str, shape: Any, words: str, tiny_config: Any, save_model: Any
) -> None:
    _, folder = save_model(tiny_config(config_class, **{switch: True}))
    tensors = load_file(folder / "model.safetensors")
    name = f"model.layers.1.self_attn.{module}.weight"
    if shape is None:
        del tensors[name]
    else:
        tensors[name] = torch.ones(shape)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=words):
        load(folder)


def test_damaged_files_are_refused(saved: Any) -> None:
    _, folder = saved
    path = folder / "model.safetensors"
    content = path.read_bytes()
    damages = [
        b"nonsense",
        content[:5000],
        content[:-4],
        b"\xff" * 8 + content[8:],
        content[:8] + b"!" + content[9:],
    ]
    for damaged in damages:
        path.write_bytes(damaged)
        assert "is damaged" in refusal(folder)
    path.unlink()
    assert "lacks model.safetensors" in refusal(folder)
    (folder / "pytorch_model.bin").touch()
    assert "pickles" in refusal(folder)


def test_an_index_without_its_files_is_refused(saved: Any) -> None:
    _, folder = saved
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    assert "lacks model-1.safetensors, model-2.safetensors" in refusal(folder)
    for bad in ({}, {"weight_map": {}}, {"weight_map": {"a": "../model.safetensors"}}, {"weight_map": {"a": 3}}):
        index.write_text(json.dumps(bad))
        assert "in its own folder" in refusal(folder)


def test_weights_too_large_for_memory(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = saved

    empty = torch.empty

    def refuse(*shape: Any, **options: Any) -> torch.Tensor:
        if options.get("device") == torch.device("meta"):
            return empty(*shape, **options)
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes.")

    monkeypatch.setattr("multiflora_engine.models.weights.torch.empty", refuse)
    assert "do not fit into the memory of cpu" in refusal(folder)


def test_weights_beyond_the_available_memory_are_refused_before_they_are_read(saved: Any) -> None:
    """In the type that they are served in. Linux would grant the memory, and kill the process that fills it."""
    _, folder = saved
    config = load_model_config(folder)
    needed = load(folder).num_bytes
    assert load_weights(folder, config, torch.float32, CPU, available=needed).num_bytes == needed
    assert load_weights(folder, config, torch.bfloat16, CPU, available=needed - 1).num_bytes == needed // 2
    advice = r"or with --dtype bfloat16 or --quantization int8\.$"
    with pytest.raises(ModelError, match=rf"take 0\.00 GiB in float32, and 0\.00 GiB are .*{advice}"):
        load_weights(folder, config, torch.float32, CPU, available=needed - 1)
    with pytest.raises(ModelError, match=r"in bfloat16, .*or serve a smaller model, or with --quantization int8\.$"):
        load_weights(folder, config, torch.bfloat16, CPU, available=needed // 2 - 1)
    with pytest.raises(ModelError, match=r"in bfloat16 and linears in integers, .*or serve a smaller model\.$"):
        load_weights(folder, config, torch.bfloat16, CPU, available=1, storage="int8_weight_only")
    as_stored = r"in bfloat16 and linears as the checkpoint has them, .*or serve a smaller model\.$"
    with pytest.raises(ModelError, match=as_stored):
        load_weights(folder, config, torch.bfloat16, CPU, available=1, storage="as_stored")


def test_an_engine_compares_its_weights_with_the_machines_memory(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = saved
    monkeypatch.setattr(build, "available_host_memory", lambda: 1000)
    with pytest.raises(ModelError, match=r"The weights take .* GiB in float32"):
        build.build_engine(EngineConfig(model_path=str(folder), artifact_root="", device="cpu"))


def test_the_oracle_reads_the_same_folder(saved: Any) -> None:
    model, folder = saved
    read = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(read.lm_head.weight, model.lm_head.weight)
